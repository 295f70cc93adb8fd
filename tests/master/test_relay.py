"""What workers are told of each other when one leaves, and when one comes or goes."""

from __future__ import annotations

import os
from typing import Any

from supervisor.fleet.evenness import Lending
from supervisor.fleet.heirs import NOTHING
from supervisor.fleet.records import Fleet, Slot, Worker
from supervisor.kernel.board import Cell, private_row
from supervisor.master.relay import Relay


class Told:
    """A worker that remembers what it was told last."""

    def __init__(self, slot: int, connections: int) -> None:
        self.slot = slot
        self.is_leaving = False
        self.row = private_row()
        self.row[Cell.CONNECTIONS] = connections
        self.shares: list[int | None] = []
        self.lent: list[int] = []
        self.is_admitted = True
        self.number = 0

    def inherit(self, share: int | None) -> None:
        self.shares.append(share)

    def lend(self, connections: int, outlet: int) -> None:
        self.lent.append(connections)


def fleet(holders: dict[int, tuple[int, int]], leaving: tuple[int, ...] = ()) -> Fleet:
    """Slots by number with their holder's id and generation."""
    slots = {slot: Slot(slot, 1, Worker(id_, slot, gen, 0.0, 1.0)) for slot, (id_, gen) in holders.items()}
    return Fleet(60.0, 30.0, slots, {id_: Worker(id_, 1, 1, 9.0, 1.0) for id_ in leaving})


def test_a_roll_has_the_new_release_take_and_the_old_one_only_what_is_left_lying() -> None:
    relay = Relay()
    workers: dict[int, Any] = {1: Told(1, 10), 2: Told(2, 20), 3: Told(1, 0)}
    relay.settle(fleet({1: (1, 1), 2: (2, 1)}), workers)
    assert workers[1].shares == workers[2].shares == [15]
    workers[1].is_leaving = True
    assert relay.leave(workers[1], fleet({1: (3, 2), 2: (2, 1)}, (1,)), workers)
    assert workers[3].shares == [10]
    assert workers[2].shares == [15, NOTHING]
    assert workers[1].shares == [15], "it is told to leave, and that is enough"
    relay.close()


def test_a_death_of_the_only_one_of_the_new_release_has_the_others_take() -> None:
    relay = Relay()
    workers: dict[int, Any] = {1: Told(1, 10), 2: Told(2, 20), 3: Told(1, 0)}
    workers[1].is_leaving = True
    relay.leave(workers[1], fleet({1: (3, 2), 2: (2, 1)}, (1,)), workers)
    del workers[3]
    relay.settle(fleet({2: (2, 1)}, (1,)), workers)
    assert workers[2].shares == [NOTHING, 30]
    relay.settle(fleet({2: (2, 1)}, (1,)), workers)
    assert workers[2].shares == [NOTHING, 30], "nothing has changed"
    relay.close()


def test_who_is_ready_no_more_is_told_to_take_nothing() -> None:
    relay = Relay()
    workers: dict[int, Any] = {1: Told(1, 1), 2: Told(2, 1)}
    relay.settle(fleet({1: (1, 1), 2: (2, 1)}), workers)
    relay.settle(fleet({1: (1, 1)}), workers)
    assert workers[2].shares == [1, None]
    relay.close()


def test_the_last_one_has_nobody_to_give_to() -> None:
    relay = Relay()
    workers: dict[int, Any] = {1: Told(1, 5)}
    assert not relay.leave(workers[1], fleet({}, (1,)), workers)
    relay.close()


def test_both_ends_close_on_exec() -> None:
    relay = Relay()
    assert not os.get_inheritable(relay.giving_end)
    assert not os.get_inheritable(relay.taking_end)
    relay.close()


def on_trial(*connections: int) -> tuple[Relay, dict[int, Any]]:
    """Workers with so many connections each, and worker 9 on trial in the first one's slot."""
    workers: dict[int, Any] = {number: Told(number, count) for number, count in enumerate(connections, 1)}
    workers[9] = Told(1, 0)
    workers[9].number = 9
    relay = Relay()
    relay.settle(fleet({number: (number, 1) for number in range(1, len(connections) + 1)}), workers)
    return relay, workers


def test_a_worker_on_trial_is_lent_its_part_of_the_connections_by_each_of_the_others() -> None:
    relay, workers = on_trial(30, 60, 0)
    relay.lend(workers[9], 0.25, workers)
    assert workers[9].shares == [22]
    assert [workers[number].lent for number in (2, 1, 3)] == [[15], [7], []]
    assert {workers[number].shares[-1] for number in (1, 2, 3)} == {NOTHING}, "nobody is to take them back"
    relay.close()


def test_of_few_connections_no_more_than_its_part_is_lent() -> None:
    relay, workers = on_trial(1, 1, 1)
    relay.lend(workers[9], 0.25, workers)
    assert all(worker.lent == [] for worker in workers.values())
    relay.close()


def test_while_somebody_is_on_trial_the_shares_stay_as_they_are_whoever_comes_to_rest() -> None:
    relay, workers = on_trial(8, 8)
    relay.lend(workers[9], 0.5, workers)
    told = {number: list(worker.shares) for number, worker in workers.items()}
    relay.settle(fleet({1: (1, 1), 2: (2, 1)}), workers)
    assert {number: worker.shares for number, worker in workers.items()} == told
    relay.close()


def test_after_the_trial_nobody_lends_and_everybody_takes_again() -> None:
    relay, workers = on_trial(8, 8)
    relay.lend(workers[9], 0.5, workers)
    relay.end_trial(fleet({1: (1, 1), 2: (2, 1)}), workers)
    assert [worker.lent[-1] for worker in workers.values()] == [0, 0, 0]
    assert workers[9].shares[-1] is None
    assert workers[1].shares[-1] == workers[2].shares[-1] == 8
    relay.end_trial(fleet({1: (1, 1)}), workers)
    assert len(workers[1].lent) == 2, "once is enough"
    relay.close()


def test_a_worker_on_trial_that_dies_leaves_the_others_to_take_what_was_lent() -> None:
    relay, workers = on_trial(8, 8)
    relay.lend(workers[9], 0.5, workers)
    del workers[9]
    relay.settle(fleet({1: (1, 1), 2: (2, 1)}), workers)
    assert workers[1].shares[-1] == workers[2].shares[-1] == 8
    relay.close()


def test_to_even_out_the_rich_lend_and_the_others_take_up_to_the_mean() -> None:
    relay = Relay()
    workers: dict[int, Any] = {1: Told(1, 50), 2: Told(2, 10), 3: Told(3, 0)}
    relay.settle(fleet({1: (1, 1), 2: (2, 1), 3: (3, 1)}), workers)
    relay.even_out(Lending({1: 30}, 20), workers)
    assert [workers[number].shares[-1] for number in (1, 2, 3)] == [NOTHING, 20, 20]
    assert [workers[number].lent for number in (1, 2, 3)] == [[30], [], []]
    relay.even_out(Lending({2: 5}, 20), workers)
    assert [workers[number].lent for number in (1, 2, 3)] == [[30, 0], [5], []]
    del workers[2]
    relay.settle(fleet({1: (1, 1), 3: (3, 1)}), workers)
    relay.even_out(Lending({}, 20), workers)
    assert workers[1].lent == [30, 0], "who lends to nobody is told nothing more"
    assert [workers[number].shares[-1] for number in (1, 3)] == [20, 20]
    relay.close()
