"""What a worker says about taking connections: on the board at once, in words when it matters, and each to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from supervisor.kernel.board import Cell, WorkerState, private_row
from supervisor.messages.wire import Recovered, Saturated
from supervisor.worker.acceptor import Acceptor
from supervisor.worker.admission import WORTH_TELLING, Admission
from tests.worker.test_acceptor import Door

LIMIT = 0.25


class Held:
    is_held = False
    crowd = "2 requests under way, room for 2"

    def feel(self, lag: float) -> None:
        self.felt = lag


class Stage:
    """An admission with a real acceptor whose taker always has room; ticks are given by hand."""

    def __init__(self) -> None:
        self.door = Door()
        self.door.acceptor.close(sweep=False)
        self.row = private_row()
        self.row[Cell.STATE] = WorkerState.READY
        self.told: list[Saturated | Recovered] = []
        self.shown: list[str] = []
        self.service = Held()
        loop = self.door.loop
        self.admission = Admission(loop, self.row, self.told.append, self.shown.append)
        self.door.listener = self.door.open_listener()
        self.door.acceptor = self.acceptor = Acceptor(
            loop, [self.door.listener], self.door.taker, self.door.row, lambda error: None, self.admission.door
        )
        self.admission.begin(self.service, self.acceptor, LIMIT, self._on_room)
        self.acceptor.open()
        self.now = time.monotonic() + 10

    def _on_room(self) -> None:
        self.acceptor.open()

    def tick(self, lag: float = 0.0) -> None:
        self.now += 0.1 + lag
        self.admission.feel(lag, self.now)

    @property
    def state(self) -> str:
        return WorkerState(self.row[Cell.STATE]).name


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.admission.end()
    made.door.close()


def test_a_late_tick_is_told_at_once_and_so_is_the_recovery(stage: Stage) -> None:
    stage.tick(4.0)
    assert (stage.state, stage.service.is_held) == ("SATURATED", True)
    assert stage.told == [Saturated("its event loop was 4.00 s late, lag_limit is 0.25 s")]
    stage.door.knock(3)
    assert stage.door.taken() == 0
    for _ in range(20):
        stage.tick()
    assert (stage.state, stage.service.is_held) == ("READY", False)
    assert [type(word) for word in stage.told] == [Saturated, Recovered]
    assert isinstance(last := stage.told[-1], Recovered)
    assert last.why == "its event loop keeps time again"
    assert stage.shown == ["saturated", "ready"]
    assert stage.door.taken() == 3


def test_on_trial_it_takes_one_connection_a_tick(stage: Stage) -> None:
    stage.tick(1.0)
    stage.tick()
    stage.tick()
    stage.door.knock(3)
    assert stage.door.taken() == 0, "the pause is not over"
    for taken in (1, 2):
        stage.tick()
        assert stage.door.taken() == taken
        assert stage.state == "SATURATED"


def test_a_trial_that_fails_is_the_same_episode(stage: Stage) -> None:
    for _ in range(3):
        stage.tick(1.0)
        while stage.service.is_held:
            stage.tick()
    assert len(stage.told) == 1


def test_those_whom_nobody_takes_are_taken_by_a_worker_that_is_held(stage: Stage) -> None:
    stage.door.knock(6)
    stage.door.taker.inflight = stage.door.taker.capacity
    for _ in range(2):
        stage.tick(1.0)
        assert stage.door.taken() == 0
    stage.tick(1.0)
    assert stage.door.taken() == 4
    stage.tick(1.0)
    assert stage.door.taken() == 6


def test_what_was_late_before_it_began_does_not_count(stage: Stage) -> None:
    stage.admission.feel(30.0, time.monotonic() + 1)
    assert stage.state == "READY"


def test_fullness_is_told_only_when_it_lasts(stage: Stage) -> None:
    stage.acceptor.pause()
    assert stage.state == "SATURATED"
    stage.acceptor.open()
    assert stage.state == "READY"
    stage.door.loop.run_until_complete(asyncio.sleep(WORTH_TELLING * 1.1))
    assert stage.told == []
    stage.acceptor.pause()
    stage.door.loop.run_until_complete(asyncio.sleep(WORTH_TELLING * 1.1))
    assert stage.told == [Saturated(Held.crowd)]
    stage.acceptor.open()
    assert isinstance(last := stage.told[-1], Recovered)
    assert last.why == "it has room again"


def test_who_leaves_says_no_more(stage: Stage) -> None:
    stage.admission.end()
    stage.row[Cell.STATE] = WorkerState.DRAINING
    stage.acceptor.close(sweep=False)
    stage.tick(9.0)
    assert stage.state == "DRAINING"
    assert stage.told == []


def test_nothing_is_taken_in_a_turn_that_comes_late() -> None:
    door = Door()
    late = [True]
    door.acceptor.close(sweep=False)
    door.listener = door.open_listener()
    door.acceptor = Acceptor(
        door.loop, [door.listener], door.taker, door.row, lambda error: None, door.told.append, lambda: late[0]
    )
    door.acceptor.open()
    door.knock(2)
    assert door.taken() == 0
    late[0] = False
    assert door.taken() == 2
    door.close()


def test_a_trial_that_fails_does_not_keep_it_from_taking_whom_nobody_takes(stage: Stage) -> None:
    stage.tick(1.0)
    while stage.service.is_held:
        stage.tick()
    stage.door.knock(1)
    assert stage.door.taken() == 1  # the trial's only one
    stage.tick(1.0)
    stage.door.knock(3)
    for _ in range(4):
        stage.tick()
    assert stage.door.taken() >= 3
    assert stage.service.is_held
