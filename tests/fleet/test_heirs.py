"""Who takes over connections, and how many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.fleet.heirs import NOTHING, shares
from supervisor.fleet.records import Fleet, Slot, Worker


def worker(number: int, generation: int = 1, *, ready: bool = True, doomed: bool = False) -> Worker:
    return Worker(number, number, generation, 0.0, 1.0 if ready else None, doomed)


def fleet(*holders: Worker | None, leaving: tuple[Worker, ...] = (), heir: Worker | None = None) -> Fleet:
    slots = {number: Slot(number, 1, holder, heir) for number, holder in enumerate(holders, 1)}
    return Fleet(60.0, 30.0, slots, {each.id: each for each in leaving})


def test_the_first_of_a_new_generation_takes_all_that_its_predecessor_leaves() -> None:
    found = shares(fleet(worker(4, 2), worker(2), worker(3), leaving=(worker(1),)), 2, {1: 100, 2: 70, 3: 30, 4: 6})
    assert found == {4: 106, 2: NOTHING, 3: NOTHING}


def test_the_next_ones_share_alike_with_those_before_them() -> None:
    found = shares(fleet(worker(4, 2), worker(5, 2), worker(3), leaving=(worker(2),)), 2, {2: 71, 3: 30, 4: 100, 5: 0})
    assert found == {4: 86, 5: 86, 3: NOTHING}


def test_without_a_ready_worker_of_the_new_generation_all_others_take() -> None:
    leaving = (worker(1),)
    holders = (worker(4, 2, ready=False), worker(5, 2, doomed=True), worker(2), worker(3))
    assert shares(fleet(*holders, leaving=leaving), 2, {1: 10, 2: 0, 3: 0, 4: 0, 5: 9}) == {2: 5, 3: 5}
    assert shares(fleet(worker(2), worker(3), leaving=leaving), None, {1: 10, 2: 0, 3: 0}) == {2: 5, 3: 5}


def test_nobody_takes_where_nobody_is_ready() -> None:
    assert shares(fleet(worker(1, ready=False), None), None, {1: 0}) == {}


def test_a_worker_on_trial_or_without_a_process_takes_nothing() -> None:
    assert shares(fleet(worker(1), worker(2), heir=worker(9, 2)), 2, {1: 3, 9: 0}) == {1: 3}


@given(
    workers=st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.integers(0, 50)), min_size=1, max_size=9),
    toward=st.none() | st.integers(1, 3),
    gone=st.integers(0, 500),
)
def test_whoever_is_ready_there_is_a_place_for_each_connection(
    workers: list[tuple[int, bool, int]], toward: int | None, gone: int
) -> None:
    holders = [worker(number, generation, ready=ready) for number, (generation, ready, _) in enumerate(workers, 1)]
    connections = {number: count for number, (_, _, count) in enumerate(workers, 1)} | {99: gone}
    found = shares(fleet(*holders, leaving=(worker(99),)), toward, connections)
    assert set(found) == {each.id for each in holders if each.is_ready}
    first = {number: share for number, share in found.items() if share != NOTHING}
    assert bool(first) == bool(found)
    assert sum(first.values()) >= gone * bool(found) + sum(connections[number] for number in first)
    assert len(set(first.values())) <= 1
