from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from supervisor.kernel.lane import Lane
from supervisor.kernel.reactor import Reactor, Timer
from tests.kernel.conftest import Until

BUDGET = 0.002
WORK = 0.0005  # seconds that each callback takes


def spin(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


@pytest.fixture
def lane(reactor: Reactor) -> Iterator[Lane]:
    it = Lane(reactor, budget=BUDGET)
    yield it
    it.close()


@pytest.fixture
def ready() -> Iterator[list[int]]:
    """Twenty descriptors that are always readable."""
    pipes = [os.pipe() for _ in range(20)]
    for _read, write in pipes:
        os.write(write, b"x")
    yield [read for read, _write in pipes]
    for read, write in pipes:
        os.close(read)
        os.close(write)


def test_a_crowd_of_ready_descriptors_takes_a_slice_of_each_turn_and_everybody_gets_a_turn(
    reactor: Reactor, lane: Lane, ready: list[int]
) -> None:
    served: list[tuple[int, int]] = []

    def serve(fd: int) -> None:
        served.append((reactor.turns, fd))
        spin(WORK)
        if len(served) >= 100:
            reactor.stop()

    for fd in ready:
        lane.add_reader(fd, lambda fd=fd: serve(fd))  # type: ignore[misc]
    reactor.run()
    turns = {turn for turn, _fd in served}
    assert max([turn for turn, _fd in served].count(turn) for turn in turns) <= BUDGET / WORK + 1
    counts = [[fd for _turn, fd in served].count(fd) for fd in ready]
    assert min(counts) >= max(counts) - 1


def test_timers_that_are_due_together_share_the_slice(reactor: Reactor, lane: Lane, ready: list[int]) -> None:
    ran: list[tuple[int, str]] = []

    def note(what: str) -> None:
        ran.append((reactor.turns, what))
        spin(WORK)

    when = reactor.now() + 0.005
    for number in range(30):
        lane.call_at(when, lambda number=number: note(f"timer {number}"))  # type: ignore[misc]
    lane.add_reader(ready[0], lambda: note("descriptor"))
    lane.call_at(when, reactor.stop)
    reactor.run()
    turns = [turn for turn, _what in ran]
    assert max(turns.count(turn) for turn in turns) <= BUDGET / WORK + 2
    timers = [what for _turn, what in ran if what != "descriptor"]
    assert timers == [f"timer {number}" for number in range(30)]
    assert "descriptor" in [what for _turn, what in ran[len(ran) // 2 :]]


def test_the_reactors_own_timers_are_not_held_up(reactor: Reactor, lane: Lane, ready: list[int]) -> None:
    late: list[float] = []
    for fd in ready:
        lane.add_reader(fd, lambda: spin(WORK))

    def tick(spent: float) -> None:
        late.append(time.thread_time() - spent - 0.005)  # ours alone: others may have had the core meanwhile
        if len(late) == 20:
            reactor.stop()
        else:
            plan()

    def plan() -> None:
        spent = time.thread_time()
        reactor.call_at(reactor.now() + 0.005, lambda: tick(spent))

    plan()
    reactor.run()
    assert sorted(late)[len(late) // 2] < BUDGET + WORK + 0.002


def test_what_waits_for_its_turn_can_be_cancelled(reactor: Reactor, lane: Lane) -> None:
    ran: list[str] = []
    later: list[Timer] = []
    now = reactor.now()

    def first() -> None:
        spin(2 * BUDGET)
        later[0].cancel()

    lane.call_at(now, first)
    later.append(lane.call_at(now, lambda: ran.append("cancelled")))
    lane.call_at(now, lambda: ran.append("last"))
    lane.call_at(now, reactor.stop)
    reactor.run()
    assert ran == ["last"]


def test_an_error_goes_where_the_reactors_go(reactor: Reactor, lane: Lane, errors: list[Exception]) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    lane.call_later(0, fail)
    reactor.call_later(0.05, reactor.stop)
    reactor.run()
    assert [type(error) for error in errors] == [ZeroDivisionError]
    errors.clear()


def test_after_closing_nobody_is_called(reactor: Reactor, lane: Lane, ready: list[int]) -> None:
    ran: list[str] = []
    lane.add_reader(ready[0], lambda: ran.append("descriptor"))
    lane.call_later(0, lambda: ran.append("timer"))
    lane.close()
    lane.close()
    reactor.call_later(0.02, reactor.stop)
    reactor.run()
    assert ran == []


def test_readers_and_writers_can_leave(reactor: Reactor, lane: Lane, until: Until) -> None:
    read, write = os.pipe()
    ran: list[str] = []

    def writable() -> None:
        ran.append("writable")
        lane.remove_writer(write)
        os.write(write, b"x")

    def readable() -> None:
        ran.append("readable")
        lane.remove_reader(read)
        reactor.call_later(0.02, reactor.stop)

    lane.add_writer(write, writable)
    lane.add_reader(read, readable)
    reactor.run()
    os.close(read)
    os.close(write)
    assert ran == ["writable", "readable"]
