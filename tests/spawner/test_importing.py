"""Functions that settings name: found as the app is, or told in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.config.load import app_settings
from supervisor.errors import AppError
from supervisor.spawner.importing import enter, load_function, load_hooks

SOURCE = """
class Hooks:
    @staticmethod
    def begin(worker): return worker
def end(worker): ...
async def wait(worker): ...
NUMBER = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some_hooks.py").write_text(SOURCE)
    enter(str(tmp_path))
    yield "some_hooks"
    sys.modules.pop("some_hooks", None)


def test_a_function_is_found_by_its_dotted_name() -> None:
    assert load_function("some_hooks:Hooks.begin")(1) == 1


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("some_hooks:wait", "some_hooks:wait is a coroutine function"),
        ("some_hooks:NUMBER", "some_hooks:NUMBER is int, not callable"),
        ("some_hooks:nothing", "has no 'nothing'"),
        ("no_such_hooks:begin", "can't import no_such_hooks:begin: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_called_is_told(target: str, said: str) -> None:
    with pytest.raises(AppError, match=said):
        load_function(target)


def test_hooks_of_a_worker_are_those_that_the_settings_name() -> None:
    hooks = load_hooks(app_settings("test", "web", {"app": "a:b", "on_worker_exit": "some_hooks:end"}))
    assert hooks.on_worker_exit is not None
    assert (hooks.before_fork, hooks.after_fork, hooks.on_worker_start) == (None, None, None)


def test_a_directory_that_is_not_there_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(AppError, match=r"chdir /.*/gone: No such file or directory"):
        enter(str(tmp_path / "gone"))
