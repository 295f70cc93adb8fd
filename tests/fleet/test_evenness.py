"""Evening out, on generated loads: who lends, that it comes to an end, and that nothing goes back and forth."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from supervisor.fleet.evenness import LONGEST_PAUSE, Evenness, Lending, Load, step

LOOK = 0.25


class Cluster:
    """Workers by number, who lend what they are told between two looks; `stuck` connections can't be moved."""

    def __init__(self, *connections: int, stuck: bool = False) -> None:
        self.have = dict(enumerate(connections, 1))
        self.given = dict.fromkeys(self.have, 0)
        self.full: set[int] = set()
        self.stuck = stuck
        self.state = Evenness()
        self.now = 100.0
        self.lendings: list[Lending] = []

    def look(self) -> Lending | None:
        self.now += LOOK
        loads = {each: Load(self.have[each], self.given[each], each not in self.full) for each in self.have}
        self.state, lending = step(self.state, loads, self.now)
        if lending is not None:
            self.lendings.append(lending)
            if not self.stuck:
                self._carry_out(lending)
        return lending

    def _carry_out(self, lending: Lending) -> None:
        for lender, count in lending.lenders.items():
            for _ in range(count):
                takers = [each for each in self.have if each not in lending.lenders and each not in self.full]
                taker = min(takers, key=self.have.__getitem__)
                self.have[lender] -= 1
                self.given[lender] += 1
                self.have[taker] += 1

    def settle(self, looks: int = 8) -> list[int]:
        for _ in range(looks):
            self.look()
        return list(self.have.values())


def test_a_burst_that_one_worker_took_is_even_within_a_second() -> None:
    assert max(Cluster(64, 0, 0, 0).settle(looks=4)) <= 1.25 * 16
    assert max(Cluster(40, 20, 2, 2).settle(looks=4)) <= 1.25 * 16


def test_what_is_even_enough_is_left_alone() -> None:
    for connections in [(16, 16, 16, 16), (19, 15, 15, 15), (2, 0, 0, 0), (1, 0), (0, 0, 0)]:
        cluster = Cluster(*connections)
        cluster.settle()
        assert cluster.lendings == []


def test_one_look_decides_nothing() -> None:
    cluster = Cluster(64, 0)
    assert cluster.look() is None
    cluster.have = {1: 32, 2: 32}
    assert cluster.look() is None
    cluster.have = {1: 64, 2: 0}
    assert cluster.look() is None


def test_who_is_full_for_a_moment_now_here_and_now_there_lends_nothing() -> None:
    cluster = Cluster(10, 10, 10)
    for look in range(30):
        cluster.full = {1 + look % 3}
        cluster.look()
    assert cluster.lendings == []


def test_who_has_lent_enough_is_told_to_stop() -> None:
    cluster = Cluster(64, 0)
    cluster.settle()
    assert cluster.lendings == [Lending({1: 32}, 32), Lending({}, 32)]


def test_a_worker_without_room_lends_all_it_has() -> None:
    cluster = Cluster(10, 10, 10)
    cluster.full = {2}
    assert cluster.settle() == [15, 0, 15]


def test_where_nobody_has_room_nothing_moves() -> None:
    cluster = Cluster(60, 0)
    cluster.full = {1, 2}
    cluster.settle()
    assert cluster.lendings == []


def test_what_can_not_be_moved_is_asked_for_less_and_less_often() -> None:
    cluster = Cluster(64, 0, stuck=True)
    for _ in range(round(600 / LOOK)):
        cluster.look()
    assert len(cluster.lendings) < 10 + 600 / LONGEST_PAUSE


@given(st.lists(st.integers(0, 500), min_size=2, max_size=16))
def test_whatever_there_is_becomes_even_and_then_stays_as_it_is(connections: list[int]) -> None:
    cluster = Cluster(*connections)
    cluster.settle(looks=10)
    mean = sum(connections) / len(connections)
    assert max(cluster.have.values()) <= max(1.25 * mean, mean + 2)
    count = len(cluster.lendings)
    cluster.settle(looks=20)
    assert len(cluster.lendings) == count


def test_clients_that_come_and_go_at_random_have_hardly_any_moved() -> None:
    """Sixteen a worker: their number at a worker has a spread of four."""
    dice = random.Random(5)
    cluster = Cluster(16, 16, 16, 16)
    for _ in range(400):
        for _ in range(4):
            leaves = dice.choice([each for each in cluster.have if cluster.have[each]])
            cluster.have[leaves] -= 1
            cluster.have[dice.choice(list(cluster.have))] += 1
        cluster.look()
    assert sum(cluster.given.values()) < 0.25 * 400 * 4, "fewer are moved than come"
