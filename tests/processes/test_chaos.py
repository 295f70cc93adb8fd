"""Twenty seconds of random deaths under load, after which the cluster is whole."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from supervisor.kernel.board import ROW_BYTES, ROWS
from tests.processes.cluster import Cluster, until
from tests.processes.deeds import deeds, ready, spawners, told
from tests.processes.load import Load, Report

pytestmark = pytest.mark.alone

SECONDS = 20.0
WORKERS = 6
DEADLY = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
BETWEEN = 0.35  # seconds between two deaths


class Deaths:
    """How many were killed."""

    def __init__(self) -> None:
        self.workers = 0
        self.spawners = 0


def test_after_20_s_of_killing_random_workers_and_spawners_under_load_the_cluster_is_whole(tmp_path: Path) -> None:
    chance = random.Random(20)
    with deeds(tmp_path, "-w", str(WORKERS)) as cluster:
        descriptors, rows = settled_descriptors(cluster), board_rows(cluster)
        with Load(cluster.bind, connections=16) as load:
            deaths = rage(cluster, load, chance)
            wait_until_whole(cluster)
            totals_before = cluster.app()["totals"]
            calm = load.window()
            report = load.stop()
        assert deaths.workers >= 15
        assert deaths.spawners >= 3
        assert_only_the_dead_took_requests_with_them(cluster, deaths, report)
        assert calm.ok > 0
        assert cluster.app()["totals"]["lost"] == totals_before["lost"]
        assert cluster.zombies() == []
        assert sorted(cluster.processes()) == sorted(
            [cluster.pid, *spawners(cluster), *(worker["pid"] for worker in cluster.workers())]
        )
        until("the same descriptors as before", lambda: open_descriptors(cluster) == descriptors)
        assert board_rows(cluster) <= rows + 2  # some worker and its successor are there at once; none leaks
        assert "Traceback" not in cluster.log
        assert cluster.stop() == 0
        assert cluster.leftovers() == {}


def rage(cluster: Cluster, load: Load, chance: random.Random) -> Deaths:
    deaths = Deaths()
    ends = time.monotonic() + SECONDS
    while (now := time.monotonic()) < ends:
        workers, found = cluster.workers(), spawners(cluster)
        if found and chance.random() < 0.2:
            kill(found[0], signal.SIGKILL)
            deaths.spawners += 1
        elif workers:
            victim = chance.choice(workers)
            kill(victim["pid"], chance.choice(DEADLY))
            deaths.workers += 1
        wait_for(load, now + BETWEEN)
    return deaths


def wait_for(load: Load, moment: float) -> None:
    until("the next death due", lambda: load.snapshot().requests and time.monotonic() >= moment)


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just died of something else
        os.kill(pid, number)


def wait_until_whole(cluster: Cluster) -> None:
    until("every slot served", lambda: ready(cluster, WORKERS), 40.0)
    until("the app running", lambda: cluster.app()["state"] == "running")
    until("one spawner, ready", lambda: len(spawners(cluster)) == 1, 40.0)


def assert_only_the_dead_took_requests_with_them(cluster: Cluster, deaths: Deaths, report: Report) -> None:
    """Those it had begun, which the master knows (`lost`); a few more were still unread in its sockets, or just
    answered without having been counted so."""
    assert {kind for kind, count in report.lost_by.items() if count} <= {"reset", "closed"}, report
    lost = cluster.app()["totals"]["lost"]
    assert abs(report.lost - lost) <= deaths.workers, report
    told_of = sum(event["lost"] for event in told(cluster, "worker.exited"))
    assert told_of == lost


def open_descriptors(cluster: Cluster) -> Counter[str]:
    """The master's descriptors by kind: `socket`, `pipe`, `anon_inode:[pidfd]`, or a file's path."""
    found: Counter[str] = Counter()
    for entry in Path(f"/proc/{cluster.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed while we looked, as a client's connection is
            link = os.readlink(entry)
            found[link.split(":[")[0] if link.startswith(("socket:", "pipe:")) else link] += 1
    return found


def settled_descriptors(cluster: Cluster) -> Counter[str]:
    """What stays open: our own last question's connection is closed by then."""
    looks = [open_descriptors(cluster)]

    def is_settled() -> bool:
        looks.append(open_descriptors(cluster))
        return len(looks) > 5 and all(look == looks[-1] for look in looks[-5:])

    until("the same descriptors five times in a row", is_settled)
    return looks[-1]


def has_data(board: int, row: int) -> bool:
    try:
        return os.lseek(board, row * ROW_BYTES, os.SEEK_DATA) < (row + 1) * ROW_BYTES
    except OSError:  # none from here to the end
        return False


def board_rows(cluster: Cluster) -> int:
    """Rows of the board that ever had a worker: the memfd is sparse."""
    for name in os.listdir(f"/proc/{cluster.pid}/fd"):
        path = f"/proc/{cluster.pid}/fd/{name}"
        if "holdfast-board" in os.readlink(path):
            with open(path, "rb") as board:
                return sum(has_data(board.fileno(), row) for row in range(ROWS))
    raise AssertionError("the master has no board")
