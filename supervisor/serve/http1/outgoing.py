"""The writing half of a connection.

Invariant: nothing is kept here beyond the current turn of the event loop. The transport has no buffer of its own, so
that right after a write `write_paused` says whether the kernel has taken it whole; and the pieces that an app streams
without pausing between them go out in one write, which ends the turn of a long one. A file on its way holds
`write_paused` until its last byte is taken.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Protocol

from supervisor.serve.http1.sendfile import FilePart, FileSender

TOGETHER = 64 * 1024  # pieces are written at the latest when they are this many bytes


class Writer(Protocol):
    """A protocol that can be told to wait."""

    transport: asyncio.Transport
    write_paused: bool

    def resume_writing(self) -> None: ...


def give_way(writer: Writer, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
    """Have `writer` wait for the loop's next turn. An app that sends on and on to a client who takes it all would have
    the loop to itself otherwise, and never be told that its client has gone."""
    if not writer.write_paused:
        writer.write_paused = True
        loop.call_soon(_go_on, writer, context=context)


def _go_on(writer: Writer) -> None:
    transport = writer.transport
    if writer.write_paused and not (transport.is_closing() or transport.get_write_buffer_size()):
        writer.resume_writing()


class Outgoing(asyncio.Protocol):
    """A protocol that writes. `transport` is there once the connection is made."""

    __slots__ = ("_context", "_loop", "_size", "_unsent", "file", "outgoing", "transport", "write_paused")

    def __init__(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        self.transport: asyncio.Transport
        self.write_paused = False
        self.outgoing: list[bytes] = []
        self.file: FileSender | None = None
        self._size = 0
        self._unsent = 0
        self._loop = loop
        self._context = context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(0)

    def pause_writing(self) -> None:
        self.write_paused = True
        self._unsent = self._backlog()

    def resume_writing(self) -> None:
        self.write_paused = False

    def is_stuck(self) -> bool:
        """Whether there is something that the client has yet to take; when writing is paused, it may just give way."""
        return self.write_paused and self._backlog() > 0

    def is_taken(self) -> bool:
        """Whether the client has taken anything since writing was paused, or since this was asked last."""
        before, self._unsent = self._unsent, self._backlog()
        return self._unsent < before

    def _backlog(self) -> int:
        size = self.transport.get_write_buffer_size()
        return size if self.file is None else size + self.file.unsent

    def stream(self, piece: bytes) -> None:
        """Write `piece` together with what else is streamed in this turn of the loop. An empty one ends the turn."""
        if not piece:
            give_way(self, self._loop, self._context)
            return
        if not self.outgoing:
            self._loop.call_soon(self.flush, context=self._context)
        self.outgoing.append(piece)
        self._size += len(piece)
        if self._size > TOGETHER:
            self.flush()
            give_way(self, self._loop, self._context)

    def stream_now(self, piece: bytes) -> None:
        """`stream` for who holds the loop until the next piece comes: none waits for the end of the turn."""
        size = self._size + len(piece)
        self.flush()
        self.transport.write(piece)
        if size > TOGETHER:
            size = 0
            give_way(self, self._loop, self._context)
        self._size = size

    def flush(self) -> None:
        """Write what was streamed."""
        pieces = self.outgoing
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._size = 0
            self.transport.write(data)

    def send_file(self, part: FilePart, failed: Callable[[str], None]) -> None:
        """Write `part`, which is closed then, after all that was written before; `failed` as `FileSender` has it."""
        self.flush()
        self.file = sender = FileSender(self, part, self._loop, failed)
        waits = self.write_paused
        self.pause_writing()
        if not waits:
            sender.go_on()

    def drop_file(self) -> None:
        """Stop sending it, if there is one."""
        if self.file is not None:
            self.file.close()
            self.file = None
