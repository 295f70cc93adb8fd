"""What a cluster holds while nobody asks anything of it, with room for other versions of things.

Counted is what this cluster's processes share among themselves. What they share with strangers, such as the test's own
Python, counts in full, which the kernel's own proportional size does not.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.releases import NO_BYTECODE

pytestmark = pytest.mark.alone

WORKERS = 4
PAGE = 4096
PRESENT, NUMBER = 1 << 63, (1 << 55) - 1  # of a word in /proc/PID/pagemap, proc_pid_pagemap(5)
MOST = 80_000_000  # bytes; the aim is 70 million, with compiled bytecode and nothing asked
MOST_OF_THE_MASTER = 30_000_000
MOST_UNSHARED = 16_000_000  # of one worker, however many requests it has had; it is 7 million
MOST_OF_REQUESTS = 2_000_000  # by which it grows with 500 more
SETTLED = 19_000_000  # what the master has come down to, once it has started


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("idle")
    shutil.copy(Path(__file__).parent / "frameworks" / "fastapi_app.py", folder)
    (folder / "release").write_text("first")
    with Cluster(folder, "fastapi_app:app", "-w", str(WORKERS), env=NO_BYTECODE) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def used(idle: Cluster) -> Cluster:
    """The same, when each worker has answered 500 requests."""
    answer(idle, 500)
    return idle


def pages(pid: int) -> Iterator[int]:
    """The number of each page frame that the process has mapped; 0 for all of them without CAP_SYS_ADMIN."""
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(address, 16) // PAGE for address in line.split()[0].split("-"))
            if start < 1 << 35:  # above is the kernel's, which has no entries
                pagemap.seek(start * 8)
                entries = pagemap.read((end - start) * 8)
                yield from (word & NUMBER for (word,) in struct.iter_unpack("Q", entries) if word & PRESENT)


def answer(cluster: Cluster, requests: int) -> None:
    """Until each worker has had so many more."""
    before = {worker["slot"]: worker["requests"] for worker in cluster.workers()}

    def is_enough() -> bool:
        with contextlib.closing(http.client.HTTPConnection(cluster.bind, timeout=10)) as talk:
            for _ in range(50):
                talk.request("GET", "/echo?x=1")
                assert talk.getresponse().read() == b"x=1"
        return all(worker["requests"] >= before[worker["slot"]] + requests for worker in cluster.workers())

    until("requests at each worker", is_enough, 40)


def rollup(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def family(cluster: Cluster) -> list[int]:
    children = Path(f"/proc/{cluster.pid}/task/{cluster.pid}/children").read_text()
    return [cluster.pid, *(int(pid) for pid in children.split())]


def test_four_workers_of_a_fastapi_app_share_most_of_what_they_hold(idle: Cluster) -> None:
    found = family(idle)
    assert len(found) == 1 + 1 + WORKERS
    frames = {pid: Counter(pages(pid)) for pid in found}
    everybody: Counter[int] = sum(frames.values(), Counter())
    is_hidden = set(everybody) == {0}
    assert (sum(rollup(pid, "Pss") for pid in found) if is_hidden else PAGE * len(everybody)) < MOST
    for worker in idle.workers():
        alone = rollup(worker["pid"], "Private_Dirty")
        assert alone < 0.4 * rollup(worker["pid"], "Rss")


def test_the_master_stays_small_and_comes_down_once_it_has_started(idle: Cluster) -> None:
    assert rollup(idle.pid, "Rss") < MOST_OF_THE_MASTER
    until("what its start has needed is given back", lambda: rollup(idle.pid, "Rss") < SETTLED)


def test_requests_unshare_little_more_however_many_there_are(used: Cluster) -> None:
    """After the first few there is next to nothing left to unshare; what 2,000 more add is held against a leak, too."""
    after = {worker["pid"]: rollup(worker["pid"], "Private_Dirty") for worker in used.workers()}
    for pid, alone in after.items():
        assert alone < MOST_UNSHARED
        assert alone < 0.4 * rollup(pid, "Rss")
    answer(used, 500)
    for pid, alone in after.items():
        assert rollup(pid, "Private_Dirty") < alone + MOST_OF_REQUESTS
