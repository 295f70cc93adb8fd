"""How often page tables are walked, on a made-up clock."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.kernel import procfs
from supervisor.kernel.procfs import Footprint
from supervisor.master import vitals
from supervisor.master.vitals import WALK_EVERY, WALK_SHARE, WALKS_AT_ONCE, Sampler


class Machine:
    """Workers whose walks take `cost` seconds each."""

    def __init__(self, cost: float, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.cost = cost
        self.walked: list[tuple[float, int]] = []
        monkeypatch.setattr(vitals, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(procfs, "rss_bytes", lambda pid: pid * 1000)
        monkeypatch.setattr(procfs, "cpu_seconds", lambda _pid: 0.0)
        monkeypatch.setattr(procfs, "footprint", self._walk)
        self.workers: list[Any] = [SimpleNamespace(number=number, pid=number) for number in range(1, workers + 1)]
        self.sampler = Sampler()

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.sampler.sample(self.workers, self.now)
            self.now += 1.0

    def _walk(self, pid: int) -> Footprint:
        self.now += self.cost
        self.walked.append((self.now, pid))
        return Footprint(pid * 100, pid * 10)


@pytest.mark.parametrize(("cost", "workers"), [(0.0005, 4), (0.0005, 64), (0.01, 4), (0.2, 2)])
def test_walks_take_no_more_than_their_share_of_the_time(
    cost: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(cost, workers, monkeypatch)
    machine.run(1000)
    spent = len(machine.walked) * cost
    assert spent <= WALKS_AT_ONCE + cost + WALK_SHARE * (machine.now - 1000.0)
    assert {pid for _at, pid in machine.walked} == set(range(1, workers + 1))


def test_small_workers_are_walked_every_few_seconds_and_no_oftener(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(0.0001, 2, monkeypatch)
    machine.run(100)
    for pid in (1, 2):
        times = [at for at, walked in machine.walked if walked == pid]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert all(WALK_EVERY <= gap < WALK_EVERY + 1.1 for gap in gaps)


def test_a_worker_that_is_asked_about_before_the_first_round_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(0.0005, 1, monkeypatch)
    known = machine.sampler.of(machine.workers[0])
    assert (known.rss_bytes, known.pss_bytes, known.uss_bytes) == (1000, 100, 10)


def test_a_start_with_many_workers_is_not_held_up_by_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(0.005, 64, monkeypatch)
    for worker in machine.workers:
        machine.sampler.of(worker)
    assert len(machine.walked) * machine.cost <= WALKS_AT_ONCE + machine.cost
