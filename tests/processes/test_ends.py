"""How a worker ended is said as it was: issue 5, point 3."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.deeds import deeds, order, ready, told

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@contextlib.contextmanager
def memory_cgroup(size: str) -> Iterator[Path]:
    """A new cgroup with so much memory and no swap; skips where this user may not make one."""
    mount, limit = (V1, "memory.limit_in_bytes") if V1.is_dir() else (V2, "memory.max")
    group = mount / f"holdfast-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(size)
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no memory cgroup can be made here: {error.strerror}")
    try:
        yield group
    finally:
        until("the cgroup empty", lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def ends(cluster: Cluster, count: int = 1) -> list[str]:
    until(f"{count} deaths told", lambda: len(told(cluster, "worker.exited")) == count)
    return [event["reason"] for event in told(cluster, "worker.exited")]


def test_the_oom_killer_is_named_when_it_was_the_oom_killer_and_only_then(tmp_path: Path) -> None:
    with memory_cgroup("300M") as group:
        cluster = deeds(tmp_path, "-w", "2")
        join = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        cluster.command = ["sh", "-c", join, "sh", *cluster.command]
        with cluster:
            order(cluster, "/grow?400")
            assert ends(cluster) == ["killed by SIGKILL, sent by the kernel's OOM killer"]
            until("two workers", lambda: ready(cluster, 2))
            os.kill(cluster.workers()[0]["pid"], signal.SIGKILL)
            assert ends(cluster, 2)[1] == "killed by SIGKILL, sent by neither holdfast nor the OOM killer"


def test_a_kill_of_the_operators_is_not_said_to_be_a_stranger_s(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        cluster.ctl("signal", "KILL", "web:1")
        assert ends(cluster) == ["killed by SIGKILL"]


def test_other_signals_and_exit_codes_are_told_as_they_are(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        for number, (path, reason) in enumerate(
            [("/exit?3", "exit code 3"), (f"/signal?{signal.SIGSEGV:d}", "killed by SIGSEGV")], 1
        ):
            order(cluster, path)
            assert ends(cluster, number)[-1] == reason
            until("a worker", lambda: ready(cluster, 1))
