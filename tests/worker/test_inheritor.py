"""Taking from the hand-over queue: with and without room, shares and descriptors, and beside others who take."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import uvloop

from supervisor.kernel.channel import Channel
from supervisor.messages.wire import HandOver, encode
from supervisor.worker import inheritor
from supervisor.worker.inheritor import AT_ONCE, LEFT_LYING, PATIENCE, WITHOUT_ROOM, Inheritor

HANDED = HandOver("http", ("192.0.2.1", 5), ("192.0.2.2", 80), 5.0)


class Heir:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.capacity = 10
        self.inflight = 0
        self.places = 10_000
        self.socks: list[socket.socket] = []
        self.handed: list[HandOver] = []

    @property
    def connections(self) -> int:
        return len(self.socks)

    def is_full(self) -> bool:
        return self.inflight >= self.capacity

    def has_place(self) -> bool:
        return len(self.socks) < self.places

    def adopt(self, sock: socket.socket, handed: HandOver) -> None:
        assert not sock.getblocking()
        self.socks.append(sock)
        self.handed.append(handed)


class Queue:
    """A queue, whose readers share one loop here."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.giving, self.taking = Channel.pair()
        self.shortages: list[OSError] = []
        self.heirs: list[Heir] = []
        self._channels: list[Channel] = []

    def inheritor(self) -> tuple[Inheritor, Heir]:
        channel = Channel.from_fd(os.dup(self.taking.fileno()))
        heir = Heir()
        self._channels.append(channel)
        self.heirs.append(heir)
        return Inheritor(self.loop, channel, heir, self.shortages.append), heir

    def put(self, count: int) -> None:
        for _ in range(count):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                self.giving.send(encode(HANDED), [theirs.fileno()])

    def until(self, condition: Callable[[], object]) -> None:
        async def wait() -> None:
            ends = time.monotonic() + 5.0
            while not condition():
                assert time.monotonic() < ends, "it never came true"
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(wait())

    def turn(self, times: int = 3) -> None:
        async def turns() -> None:
            for _ in range(times):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def close(self) -> None:
        for channel in (self.giving, self.taking, *self._channels):
            channel.close()
        for heir in self.heirs:
            for sock in heir.socks:
                sock.close()
        self.loop.close()


@pytest.fixture
def queue() -> Iterator[Queue]:
    with contextlib.closing(Queue()) as found:
        yield found


def test_without_room_it_takes_what_nobody_takes_and_more_each_time(queue: Queue) -> None:
    full, heir = queue.inheritor()
    heir.inflight = heir.capacity
    full.inherit(10)
    queue.put(3 * LEFT_LYING + 1)
    began = time.monotonic()
    queue.until(lambda: heir.connections == LEFT_LYING)
    assert time.monotonic() - began > 1.5 * WITHOUT_ROOM
    queue.until(lambda: heir.connections == 3 * LEFT_LYING)
    queue.until(lambda: heir.connections == 3 * LEFT_LYING + 1)


def test_without_room_it_leaves_to_others_what_they_take(queue: Queue) -> None:
    full, heir = queue.inheritor()
    heir.inflight = heir.capacity
    full.inherit(10)
    other, taker = queue.inheritor()
    other.inherit(100)
    for count in range(1, 6):
        queue.put(1)
        ends = time.monotonic() + WITHOUT_ROOM
        queue.until(partial(_is_past, ends))
        assert (taker.connections, heir.connections) == (count, 0)


def _is_past(ends: float) -> bool:
    return time.monotonic() > ends


def test_what_waits_is_taken_with_what_was_said_of_it(queue: Queue) -> None:
    queue.put(2)
    taker, heir = queue.inheritor()
    taker.inherit(10)
    queue.until(lambda: heir.connections == 2)
    queue.put(1)
    queue.until(lambda: heir.connections == 3)
    assert heir.handed == [HANDED] * 3
    assert [sock.family for sock in heir.socks] == [socket.AF_UNIX] * 3


def test_no_turn_of_the_loop_takes_more_than_a_few(queue: Queue) -> None:
    taker, heir = queue.inheritor()
    queue.put(3 * AT_ONCE)
    taker.inherit(1000)
    seen: list[int] = []

    def look() -> None:
        seen.append(heir.connections)
        if seen[-1] < 3 * AT_ONCE:
            queue.loop.call_soon(look)

    queue.loop.call_soon(look)
    queue.until(lambda: heir.connections == 3 * AT_ONCE)
    assert max(after - before for before, after in itertools.pairwise(seen)) == AT_ONCE


def test_a_worker_that_is_not_told_to_takes_nothing(queue: Queue) -> None:
    queue.put(3)
    taker, heir = queue.inheritor()
    taker.resume()
    queue.turn()
    taker.inherit(10)
    taker.inherit(None)
    taker.resume()
    queue.turn()
    assert heir.connections == 0


@pytest.mark.parametrize("lack", ["capacity", "places"])
def test_without_room_nothing_is_taken_until_there_is_some(queue: Queue, lack: str) -> None:
    queue.put(3)
    taker, heir = queue.inheritor()
    before = getattr(heir, lack)
    setattr(heir, lack, 0)
    taker.inherit(10)
    queue.turn()
    assert heir.connections == 0
    setattr(heir, lack, before)
    taker.resume()
    queue.until(lambda: heir.connections == 3)


def test_who_has_its_share_leaves_the_rest_to_others(queue: Queue) -> None:
    (first, one), (second, other) = queue.inheritor(), queue.inheritor()
    first.inherit(5)
    queue.put(20)
    queue.until(lambda: one.connections == 5)
    second.inherit(20)
    queue.until(lambda: one.connections + other.connections == 20)
    assert one.connections <= 5 + LEFT_LYING
    assert other.connections >= 15 - LEFT_LYING


def test_what_is_left_lying_is_taken_beyond_the_share(queue: Queue) -> None:
    taker, heir = queue.inheritor()
    began = time.monotonic()
    taker.inherit(0)
    queue.put(LEFT_LYING + 1)
    queue.until(lambda: heir.connections == LEFT_LYING + 1)
    assert time.monotonic() - began >= 2 * PATIENCE * 0.9


def test_a_sweep_takes_all_whatever_the_share_and_the_room_and_then_no_more(queue: Queue) -> None:
    taker, heir = queue.inheritor()
    heir.capacity = 0
    taker.inherit(0)
    queue.put(50)
    taker.sweep()
    assert heir.connections == 50
    queue.put(1)
    queue.turn()
    assert heir.connections == 50


def test_without_a_descriptor_to_spare_it_stays_in_the_queue(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inheritor, "SHORTAGE_PAUSE", 0.05)
    queue.put(1)
    taker, heir = queue.inheritor()
    short = [True]
    dup = os.dup

    def scarce(fd: int) -> int:
        if short[0]:
            raise OSError(errno.EMFILE, "too many open files")
        return dup(fd)

    monkeypatch.setattr(os, "dup", scarce)
    taker.inherit(10)
    queue.until(lambda: queue.shortages)
    assert heir.connections == 0
    short[0] = False
    queue.until(lambda: heir.connections == 1)


@pytest.mark.parametrize("data", [b"x", b"\x80", encode(HANDED)[:-1]])
def test_what_makes_no_sense_is_dropped_and_told(queue: Queue, data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    taker, heir = queue.inheritor()
    taker.inherit(10)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            queue.giving.send(data, [theirs.fileno()])
        queue.put(1)
        queue.until(lambda: heir.connections == 1)
        assert ours.recv(1) == b"", "its descriptor is closed"
    assert capfd.readouterr().err.startswith("holdfast: a connection that was handed over is of no use: ")


@pytest.mark.parametrize("what", ["nothing", "no socket"])
def test_a_message_without_a_socket_is_dropped_and_told(
    queue: Queue, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    taker, heir = queue.inheritor()
    taker.inherit(10)
    before = len(os.listdir("/proc/self/fd"))
    with open("/dev/null") as file:
        queue.giving.send(encode(HANDED), [] if what == "nothing" else [file.fileno()])
    queue.put(1)
    queue.until(lambda: heir.connections == 1)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert "is of no use" in capfd.readouterr().err


def test_a_queue_whose_other_end_is_gone_is_watched_no_more(queue: Queue) -> None:
    taker, heir = queue.inheritor()
    taker.inherit(10)
    queue.giving.close()
    queue.turn()
    queue.turn()
    assert heir.connections == 0
    taker.resume()


def test_what_a_dead_reader_left_is_there_for_the_next(queue: Queue) -> None:
    queue.put(40)
    child = os.fork()
    if child == 0:  # pragma: no cover
        queue.taking.receive()
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    taker, heir = queue.inheritor()
    taker.inherit(100)
    queue.until(lambda: heir.connections == 39)
