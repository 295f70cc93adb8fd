"""Admission on a real socket: how many connections a worker takes that is allowed only so many."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest
import uvloop

from supervisor.kernel.board import Cell, private_row
from supervisor.worker.acceptor import BEHIND, FIRST_REQUEST_PAUSE, LEFT_LYING, Acceptor

PATIENCE = 0.1  # seconds in which a connection that is taken at all has been taken


class Taker:
    """Takes everything, and has nothing to do."""

    def __init__(self) -> None:
        self.capacity = 100
        self.inflight = 0
        self.is_quick = False
        self.is_queueing = False
        self.is_held = False
        self.lets_wait = False
        self.places = 100
        self.longest_wait = 0.0
        self.socks: list[socket.socket] = []

    @property
    def load(self) -> int:
        return self.inflight

    def is_full(self) -> bool:
        return self.inflight >= self.capacity

    def keeps_up(self) -> bool:
        return self.is_quick

    def kept_waiting(self, seconds: float) -> None:
        self.longest_wait = max(self.longest_wait, seconds)

    def has_place(self) -> bool:
        return len(self.socks) < self.places

    def accepted(self, sock: socket.socket, _peer: object, _here: object) -> None:
        self.socks.append(sock)


class Door:
    """A listening socket with its acceptor and its clients."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.listener = self.open_listener()
        self.taker = Taker()
        self.told: list[bool] = []
        self.clients: list[socket.socket] = []
        self.row = private_row()
        self.acceptor = Acceptor(self.loop, [self.listener], self.taker, self.row, lambda error: None, self.told.append)

    def open_listener(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        return listener

    def knock(self, times: int) -> None:
        self.clients += [socket.create_connection(self.listener.getsockname()) for _ in range(times)]

    def taken(self) -> int:
        """How many connections have been taken, once there was time to take them."""
        self.loop.run_until_complete(asyncio.sleep(PATIENCE))
        return len(self.taker.socks)

    def seconds_for(self, connections: int) -> float:
        """Seconds from so many clients at the door until the last is taken."""
        wanted = len(self.taker.socks) + connections
        self.knock(connections)
        begun = time.monotonic()
        while len(self.taker.socks) < wanted:
            self.loop.run_until_complete(asyncio.sleep(0.0005))
            assert time.monotonic() < begun + 10
        return time.monotonic() - begun

    def close(self) -> None:
        self.acceptor.close(sweep=False)
        for sock in (*self.taker.socks, *self.clients):
            sock.close()
        self.loop.close()


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.close()


def test_without_a_limit_all_connections_are_taken(door: Door) -> None:
    door.acceptor.open()
    door.knock(10)
    assert door.taken() == 10


def test_a_worker_takes_as_many_connections_as_it_is_allowed_and_then_leaves_the_others_their_turn(door: Door) -> None:
    door.acceptor.allow(3)
    door.acceptor.open()
    door.knock(10)
    assert door.taken() == 3
    door.acceptor.allow(5)
    assert door.taken() == 5
    door.acceptor.allow(None)
    assert door.taken() == 10
    assert door.told == [True], "it was never full"


def test_an_allowance_that_shrinks_below_what_was_taken_takes_none_back(door: Door) -> None:
    door.acceptor.open()
    door.knock(4)
    assert door.taken() == 4
    door.acceptor.allow(2)
    door.knock(2)
    assert door.taken() == 4


def test_who_is_full_but_keeps_up_takes_a_few_of_those_that_nobody_takes(door: Door) -> None:
    door.acceptor.open()
    door.taker.inflight = door.taker.capacity
    door.knock(3 * LEFT_LYING)
    assert door.taken() == 0
    door.taker.is_quick = True
    assert door.taken() == 3 * LEFT_LYING
    assert door.told == [True, False], "it is still full"
    door.taker.places = 3 * LEFT_LYING + 1
    door.knock(3)
    assert door.taken() == 3 * LEFT_LYING + 1, "a place for a connection is needed also then"
    door.taker.is_quick = False
    door.taker.inflight = 0
    door.taker.places = 100
    door.acceptor.open()
    assert door.taken() == 3 * LEFT_LYING + 3


def test_who_lets_them_wait_takes_those_for_whom_nobody_has_had_room(door: Door) -> None:
    door.taker.lets_wait = True
    door.acceptor.open()
    door.taker.inflight = door.taker.capacity
    door.knock(3)
    assert door.taken() == 3
    door.taker.is_held = True
    door.knock(3)
    assert door.taken() == 3, "its breaker is open"


@pytest.mark.parametrize("inflight", [1, 99])
def test_who_has_more_than_it_can_begin_takes_all_that_wait_at_once(door: Door, inflight: int) -> None:
    door.taker.inflight = inflight
    door.taker.is_queueing = True
    door.knock(30)
    door.acceptor.open()
    door.loop.run_until_complete(asyncio.sleep(0))
    door.loop.run_until_complete(asyncio.sleep(0))
    assert len(door.taker.socks) == 30


def test_who_finds_that_they_have_waited_takes_them_all_in_one_turn(door: Door) -> None:
    door.taker.inflight = 1
    door.knock(30)
    time.sleep(2 * BEHIND)
    door.acceptor.open()
    for _ in range(3):
        door.loop.run_until_complete(asyncio.sleep(0))
    assert len(door.taker.socks) == 30


def test_an_allowance_does_not_open_a_door_that_is_shut_for_want_of_room(door: Door) -> None:
    door.acceptor.allow(1)
    door.acceptor.open()
    door.taker.inflight = door.taker.capacity
    door.acceptor.pause()
    door.knock(2)
    door.acceptor.allow(2)
    assert door.taken() == 0
    door.taker.inflight = 0
    door.acceptor.open()
    assert door.taken() == 2
    assert door.told == [True, False, True]


def test_a_worker_without_a_place_for_connections_leaves_them_in_the_queue(door: Door) -> None:
    door.taker.places = 3
    door.acceptor.open()
    door.knock(5)
    assert door.taken() == 3
    assert door.told == [True, False]
    door.acceptor.open()
    assert door.taken() == 3, "room for requests is no place for a connection"
    assert door.told == [True, False]
    door.taker.places = 4
    door.acceptor.open()
    assert door.taken() == 4
    assert door.told == [True, False, True, False]


def test_a_worker_that_leaves_sweeps_the_queue_whatever_it_was_allowed(door: Door) -> None:
    door.acceptor.allow(0)
    door.acceptor.open()
    door.knock(2)
    assert door.taken() == 0
    door.acceptor.close(sweep=True)
    assert len(door.taker.socks) == 2


@pytest.mark.parametrize("room", [1, 3])
def test_who_has_room_for_few_takes_no_more_in_one_turn(door: Door, room: int) -> None:
    door.taker.capacity = room
    door.knock(10)
    door.acceptor.open()
    door.loop.run_until_complete(asyncio.sleep(0))
    door.loop.run_until_complete(asyncio.sleep(0))
    assert len(door.taker.socks) == room


def test_connections_just_taken_are_waited_for_as_if_they_were_requests(door: Door) -> None:
    def bring_a_request() -> None:
        door.row[Cell.STARTED] += 1

    def accepted(sock: socket.socket, _peer: object, _here: object) -> None:
        door.taker.socks.append(sock)
        door.loop.call_later(FIRST_REQUEST_PAUSE / 2, bring_a_request)

    door.taker.capacity = 8
    door.taker.accepted = accepted  # type: ignore[method-assign]
    door.acceptor.open()
    assert door.seconds_for(40) > 3 * FIRST_REQUEST_PAUSE


def test_clients_that_ask_nothing_keep_nobody_waiting(door: Door) -> None:
    door.taker.capacity = 8
    door.acceptor.open()
    assert door.seconds_for(96) < 96 / 8 * FIRST_REQUEST_PAUSE / 2
