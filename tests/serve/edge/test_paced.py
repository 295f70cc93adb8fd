"""A transport between a protocol and TLS, against one that takes a little at a time and hides what it has taken."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from supervisor.serve.edge.paced import PIECE, PacedTransport, unsent


class Below(asyncio.Transport):
    """As uvloop's transport of TLS: what it is given at once is out of its buffer when nothing waits there."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room  # bytes that the client takes
        self.waiting = bytearray()
        self.taken = bytearray()
        self.largest = 0
        self.paused = self.closed = self.aborted = False
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert (high, low) == (1, 0)

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: Any) -> None:
        assert not self.closed
        self.largest = max(self.largest, len(data))
        self.waiting += data
        self._move()

    def take(self, count: int) -> None:
        self.room += count
        self._move()

    def _move(self) -> None:
        self.taken += self.waiting[: self.room]
        count = min(self.room, len(self.waiting))
        self.room -= count
        del self.waiting[:count]
        if bool(self.waiting) != self.paused:
            self.paused = not self.paused
            (self.protocol.pause_writing if self.paused else self.protocol.resume_writing)()

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True


class Above(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.paused = False

    def pause_writing(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_writing(self) -> None:
        assert self.paused
        self.paused = False


def wired(room: int = 0) -> tuple[PacedTransport, Below, Above]:
    below, above = Below(room), Above()
    paced = PacedTransport(below, above)
    paced.start()
    return paced, below, above


@given(
    st.integers(0, 3 * PIECE),
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.sampled_from((0, 1, 1000, PIECE, PIECE + 1, 5 * PIECE))),
            st.tuples(st.just("take"), st.sampled_from((1, 1000, PIECE, 3 * PIECE))),
        ),
        max_size=12,
    ),
)
def test_bytes_come_in_order_and_writing_is_paused_while_some_are_unsent(
    room: int, steps: list[tuple[str, int]]
) -> None:
    paced, below, above = wired(room)
    written = bytearray()
    for what, size in steps:
        if what == "write":
            data = bytes((len(written) + i) % 251 for i in range(size))
            written += data
            paced.write(data)
        else:
            below.take(size)
        assert above.paused == (paced.get_write_buffer_size() > 0)
        assert paced.get_write_buffer_size() == unsent(paced) == len(written) - len(below.taken)
        assert below.largest <= PIECE
    paced.close()
    assert paced.is_closing()
    paced.write(b"too late")
    while below.waiting or not below.closed:
        below.take(PIECE)
    assert below.taken == written
    assert not above.paused
    assert not below.aborted


def test_an_abort_waits_for_nobody() -> None:
    paced, below, _ = wired(room=10)
    paced.write(bytes(5 * PIECE))
    paced.abort()
    assert below.aborted
    below.take(10 * PIECE)
    assert len(below.taken) == PIECE


def test_what_is_unsent_before_it_starts_is_told() -> None:
    class Behindhand(Below):
        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            self.write(b"a ticket")

    below, above = Behindhand(0), Above()
    PacedTransport(below, above).start()
    assert above.paused


def test_all_but_writing_goes_straight_to_the_protocol_and_to_its_successor() -> None:
    class Reader(Above):
        def __init__(self) -> None:
            super().__init__()
            self.read: list[bytes] = []

        def data_received(self, data: bytes) -> None:
            self.read.append(data)

    first, second = Reader(), Reader()
    paced = PacedTransport(Below(0), first)
    paced.start()
    below = paced._real
    assert isinstance(below, Below)
    below.protocol.data_received(b"one")
    paced.set_protocol(second)
    assert paced.get_protocol() is second
    below.protocol.data_received(b"two")
    assert (first.read, second.read) == ([b"one"], [b"two"])
    assert below.protocol.eof_received() is None
    below.protocol.connection_lost(None)
