"""Fixtures of this room: a path for a control socket, a stage in a thread, a stage in a process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.control.holdfastctl import CTL, Ctl, Done, environment
from tests.control.stage import Stage, stage

StartMaster = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "c.sock")


@pytest.fixture
def live(path: str) -> Iterator[Stage]:
    """A served stage whose reactor must not have seen an error by the end."""
    with stage(path) as it:
        yield it
        assert it.errors == []


@pytest.fixture
def start_master(path: str) -> Iterator[StartMaster]:
    """Starts a master in a process of its own; ended with the test."""
    with contextlib.ExitStack() as processes:

        def start(plot: str = "commit", at: str = path) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "tests.control.stage", at, plot]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_root())
            processes.callback(_end, process)
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            return process

        yield start


@pytest.fixture
def ctl(path: str, tmp_path: Path) -> Ctl:
    def run(*words: str, given: str = "") -> Done:
        env = environment(XDG_STATE_HOME=str(tmp_path / "state"))
        command = [*CTL, "-s", path, *words]
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=30, env=env)

    return run


def _root() -> str:
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()
