"""When the evener looks, and when it leaves connections to those who move them otherwise."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.fleet.evenness import Lending
from supervisor.kernel.board import Cell, WorkerState, private_row
from supervisor.master.evener import LATE, LOOK_AGAIN, LOOK_EVERY, Evener


class Clock:
    """A reactor with one timer, whose time is set by hand."""

    def __init__(self) -> None:
        self.time = 0.0
        self.timers: list[Callable[[], None]] = []
        self.pauses: list[float] = []

    def now(self) -> float:
        return self.time

    def call_later(self, seconds: float, call: Callable[[], None]) -> object:
        self.pauses.append(seconds)
        self.timers.append(call)
        return object()

    def go_on(self) -> None:
        self.time += self.pauses[-1]
        (call,) = self.timers
        self.timers.clear()
        call()


def serving(connections: int, state: WorkerState = WorkerState.READY) -> Any:
    row = private_row()
    row[Cell.CONNECTIONS], row[Cell.STATE] = connections, state
    return SimpleNamespace(row=row, is_admitted=True, lag_ms=lambda _now: 0.5)


class Stage:
    def __init__(self, workers: dict[int, Any]) -> None:
        self.clock = Clock()
        self.lent: list[Lending] = []
        self.roll = SimpleNamespace(is_under_way=False)
        self.fleet = SimpleNamespace(leaving={})
        self.relay = SimpleNamespace(has_trial=False, even_out=lambda lending, _workers: self.lent.append(lending))
        engine = SimpleNamespace(roll=self.roll, fleet=self.fleet)
        self.owner: Any = SimpleNamespace(workers=workers, engine=engine, relay=self.relay)
        self.evener = Evener(self.owner, self.clock)  # type: ignore[arg-type]
        self.evener.begin()
        self.evener.begin()

    def looks(self, number: int) -> list[Lending]:
        for _ in range(number):
            self.clock.go_on()
        return self.lent


def test_what_the_board_says_is_evened_out_within_two_looks() -> None:
    assert Stage({1: serving(60), 2: serving(4)}).looks(2) == [Lending({1: 28}, 32)]


def test_what_has_just_become_uneven_is_looked_at_again_soon() -> None:
    stage = Stage({1: serving(60), 2: serving(4)})
    stage.looks(2)
    stage.owner.workers[1].row[Cell.CONNECTIONS] = stage.owner.workers[2].row[Cell.CONNECTIONS] = 32
    stage.looks(2)
    assert stage.clock.pauses == [LOOK_EVERY, LOOK_AGAIN, LOOK_EVERY, LOOK_EVERY, LOOK_EVERY]


def test_a_saturated_worker_lends_all_it_has() -> None:
    stage = Stage({1: serving(6, WorkerState.SATURATED), 2: serving(6)})
    assert stage.looks(2) == [Lending({1: 6}, 12)]


def test_who_is_blocked_just_now_is_not_asked_to_take() -> None:
    stage = Stage({1: serving(6, WorkerState.SATURATED), 2: serving(6), 3: serving(6)})
    stage.owner.workers[2].lag_ms = lambda _now: LATE + 1
    assert stage.looks(2) == [Lending({1: 6}, 12)]
    stage.owner.workers[3].lag_ms = lambda _now: LATE + 1
    assert stage.looks(1)[1:] == [Lending({}, 0)]


def test_who_is_not_admitted_yet_is_nobody() -> None:
    stage = Stage({1: serving(60), 2: serving(0)})
    stage.owner.workers[2].is_admitted = False
    assert stage.looks(5) == []


@pytest.mark.parametrize("what", ["a roll", "a trial", "somebody leaves"])
def test_while_workers_come_and_go_nothing_is_moved(what: str) -> None:
    stage = Stage({1: serving(60), 2: serving(0)})
    stage.roll.is_under_way = what == "a roll"
    stage.relay.has_trial = what == "a trial"
    stage.fleet.leaving = {7: object()} if what == "somebody leaves" else {}
    assert stage.looks(5) == []
    stage.roll.is_under_way = stage.relay.has_trial = False
    stage.fleet.leaving = {}
    assert stage.looks(1) == []
    assert len(stage.looks(1)) == 1


def test_it_stops_when_no_worker_is_left_and_begins_again() -> None:
    stage = Stage({1: serving(1)})
    stage.owner.workers.clear()
    stage.looks(1)
    assert stage.clock.timers == []
    stage.evener.begin()
    assert len(stage.clock.timers) == 1
