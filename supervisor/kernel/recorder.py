"""A worker's flight recorder: which requests are with the app, written where the master finds it after any death.

Invariant: a request is on record from before its app is called until the app's code has ended, by exactly one of these:
it is the *current* one, which runs in the event loop and has not returned to it yet; or it has a *seat*, because it
waits, or runs in a thread. A death between two stores leaves at worst one request that is on record twice, or cut.

Every plain request pays for the current one, so that is a single store, of its head as it came: `current.value = head`
on an array in shared memory, which is a third of what `struct` takes. Who reads may parse. The client is stored when it
is not the one that it was. Since when, the heartbeat tells: it stands still as long as there is one.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable
from typing import TypeAlias

from supervisor.kernel.board import (
    CLIENT,
    CLIENT_BYTES,
    HEAD,
    HEAD_BYTES,
    NAME,
    NAME_BYTES,
    SEAT,
    SEATS,
    SEATS_COUNT,
    THREADS,
    Row,
)

Record: TypeAlias = Callable[[bytes, bytes, float], object]
"""Puts a request on record: its client, its head, when it came (`time.monotonic`)."""

NO_SEAT = 0  # any other is its place in the row
_PUT = SEAT.pack_into
_NAME = struct.Struct("48s")  # which a seat begins with
_SEAL = SEAT.size - 8  # where a seat's time is
_FOR_REQUESTS = SEATS_COUNT // 2  # seats that WebSockets, which stay for hours, leave to requests


def fitting(head: bytes) -> bytes:
    """As much of a head as there is room for."""
    return head[: HEAD_BYTES - 1]


class Recorder:
    """Writes one worker's record into the memory that its `row` lies in. Used by one thread, but for what `thread`
    returns."""

    def __init__(self, row: Row) -> None:
        memory = row.obj
        self._client = (ctypes.c_char * CLIENT_BYTES).from_buffer(memory, CLIENT)
        self._name = (ctypes.c_char * NAME_BYTES).from_buffer(memory, NAME)
        self.current = (ctypes.c_char * HEAD_BYTES).from_buffer(memory, HEAD)
        self.memory = memory
        self._cells: memoryview[int] = memoryview(memory).cast("Q")
        self._seats: dict[int, int] = {}  # by thread
        self._free = [SEATS + seat * SEAT.size for seat in reversed(range(SEATS_COUNT))]

    def enter(self, client: bytes, head: bytes) -> None:
        """The loop runs the app's code for this request from now on. (Hot code does the same by itself.)"""
        self.introduce(client)
        self.current.value = fitting(head)

    def introduce(self, client: bytes) -> None:
        """The next current request is this client's, and nobody has named it."""
        self._client.value = client
        self._name.value = b""

    def named(self, name: str) -> bool:
        """The app has asked for its request's id. Whether that was the current one, whose id is on record now."""
        if not self.current.value:
            return False
        self._name.value = _text(name)
        return True

    def named_in_thread(self, ident: int, name: str) -> None:
        """The request that this thread runs has an id."""
        if (seat := self._seats.get(ident)) is not None:
            _NAME.pack_into(self.memory, seat, _text(name))

    def leave(self) -> None:
        """It does so no more."""
        self.current.value = b""

    def keep(self, client: bytes, head: bytes, since: float, name: str, *, spare: int = 0) -> int:
        """Give a request a seat, if more than `spare` are free, or else `NO_SEAT`. Who has one keeps it: of too many,
        the oldest are on record."""
        free = self._free
        if len(free) <= spare:
            return NO_SEAT
        seat = free.pop()
        _PUT(self.memory, seat, _text(name) if name else b"", client, head, since)
        return seat

    def keep_websocket(self, client: bytes, head: bytes, since: float) -> int:
        """As `keep`, for what may stay long."""
        return self.keep(client, head, since, "", spare=_FOR_REQUESTS)

    def vacate(self, seat: int) -> None:
        """The request's code has ended."""
        if seat:
            self._cells[(seat + _SEAL) // 8] = 0
            self._free.append(seat)

    def thread(self, ident: int) -> tuple[Record, Callable[[], None]]:
        """For a thread that runs one request after the other, for as long as it lives: what puts one on record, in
        place of the one before, and what says that none runs. Without a free seat, they do nothing."""
        if not self._free:
            return _put_nothing, _say_nothing
        seat = self._seats[ident] = self._free.pop()
        self._cells[THREADS // 8 + (seat - SEATS) // SEAT.size] = ident
        put = functools.partial(_PUT, self.memory, seat, b"")
        return put, functools.partial(self._cells.__setitem__, (seat + _SEAL) // 8, 0)


def _text(name: str) -> bytes:
    return name.encode("ascii", "replace")[: NAME_BYTES - 1]


def _put_nothing(_client: bytes, _head: bytes, _since: float) -> None: ...


def _say_nothing() -> None: ...
