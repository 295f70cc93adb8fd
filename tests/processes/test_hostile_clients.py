"""Crowds that do their worst to the control socket of a running cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.processes.cluster import Cluster, until
from tests.processes.deeds import deeds, ready, told
from tests.processes.load import ROOT
from tests.processes.turns import Turns

WORKERS = 8


def test_crowds_of_hostile_clients_never_keep_the_master_from_its_own_work_for_10_ms(tmp_path: Path) -> None:
    """What is bounded is its CPU time: the kernel may have others run meanwhile."""
    turns = Turns(tmp_path)
    with deeds(tmp_path, "-w", str(WORKERS), env=turns.environment) as cluster:
        for count in range(1, WORKERS + 1):  # reports to list, and events to tell
            os.kill(min(workers_seen(cluster)), signal.SIGSEGV)
            until("the death told", lambda: len(told(cluster, "worker.exited")) >= count)  # noqa: B023 - called at once
            until("all workers", lambda: ready(cluster, WORKERS))
        with besieged(cluster, clients=300, seconds=6.0) as is_under_way:
            turns.begin()
            waits = [replaced_within(cluster) for _ in range(3)]
            until("the end of the siege", lambda: not is_under_way())
            seen = turns.end()
        assert "Traceback" not in cluster.log
    busy = sorted(turn.used * 1000 for turn in seen)
    late = sorted(turn.lasted * 1000 for turn in seen)
    figures = f"{len(seen)} turns, in ms of CPU time: median {busy[len(busy) // 2]:.2f}, longest {busy[-3:]}"
    print(f"{figures}; in ms: median {late[len(late) // 2]:.2f}, longest {late[-3:]}; successors after {waits} s")
    assert len(seen) > 200, figures
    assert busy[-1] < 10, figures
    assert busy[len(busy) * 99 // 100] < 5, figures
    assert max(waits) < 5, f"successors after {waits} s"


@contextlib.contextmanager
def besieged(cluster: Cluster, clients: int, seconds: float) -> Iterator[Callable[[], bool]]:
    """By so many hostile clients, for so long; yields what tells whether they are still at it."""
    command = [
        sys.executable,
        "-m",
        "tests.processes.hostile_clients",
        cluster.control,
        str(clients),
        str(seconds),
        "7",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as crowd:
        assert crowd.stdout is not None
        crowd.stdout.readline()
        yield lambda: crowd.poll() is None


def replaced_within(cluster: Cluster) -> float:
    """Kill a worker, without asking the master who there is: seconds until another one is there."""
    before = workers_seen(cluster)
    began = time.monotonic()
    os.kill(min(before), signal.SIGKILL)
    until("a successor", lambda: workers_seen(cluster) - before)
    return round(time.monotonic() - began, 3)


def workers_seen(cluster: Cluster) -> set[int]:
    """The pids of those that have become ready."""
    return {pid for pid, title in cluster.processes().items() if title.endswith(" ready")}
