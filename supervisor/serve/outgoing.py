"""The writing half of a connection.

Invariant: nothing is kept here beyond the current turn of the event loop. The transport has no buffer of its own, so
that right after a write `write_paused` says whether the kernel has taken it whole; and the pieces that an app streams
without pausing between them go out in one write.
"""

from __future__ import annotations

import asyncio
import contextvars

_TOGETHER = 64 * 1024  # pieces are written at the latest when they are this many bytes


class Outgoing(asyncio.Protocol):
    """A protocol that writes. `transport` is there once the connection is made."""

    __slots__ = ("_context", "_loop", "_size", "_unsent", "outgoing", "transport", "write_paused")

    def __init__(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        self.transport: asyncio.Transport
        self.write_paused = False
        self.outgoing: list[bytes] = []
        self._size = 0
        self._unsent = 0
        self._loop = loop
        self._context = context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(0)

    def pause_writing(self) -> None:
        self.write_paused = True
        self._unsent = self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        self.write_paused = False

    def is_taken(self) -> bool:
        """Whether the client has taken anything since writing was paused, or since this was asked last."""
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        return self._unsent < before

    def stream(self, piece: bytes) -> None:
        """Write `piece` together with what else is streamed in this turn of the loop."""
        if not self.outgoing:
            self._loop.call_soon(self.flush, context=self._context)
        self.outgoing.append(piece)
        self._size += len(piece)
        if self._size > _TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Write what was streamed."""
        pieces = self.outgoing
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._size = 0
            self.transport.write(data)
