"""One open WebSocket: the client's bytes to the app's inbox, the app's messages to bytes, pings, and the closing.

    OPEN ──we close──────────────────────────────► CLOSING ──the client's close frame──► PARTED ──► CLOSED
      └──the client closes, or breaks the protocol─────────────────────────────────────────┘

Invariants. Reading stops while the app has enough in its inbox, or the client doesn't take what answers its pings.
No socket has a timer: `expires` is compared by the service's sweep, be it the next ping's time, its pong's, or that of
the client's close frame. A client that broke the protocol is read until its end: a reset would destroy what it is told.
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Any

from supervisor.serve.edge.paced import unsent
from supervisor.serve.http1.outgoing import TOGETHER, give_way
from supervisor.serve.limits import NEVER

if TYPE_CHECKING:
    from supervisor.serve.asgi.inbox import Inbox
    from supervisor.serve.http1.connection import Connection
    from supervisor.serve.websocket.framing import Framing

_SLICE = 16 * 1024  # bytes parsed at once: what tiny frames become takes a hundred times their size

NORMAL, ABNORMAL, APP_FAILED, RESTARTING = 1000, 1006, 1011, 1012


class Phase(enum.Enum):
    """The picture above."""

    OPEN = 1
    CLOSING = 2
    PARTED = 3
    CLOSED = 4


OPEN, CLOSING, PARTED, CLOSED = Phase


class WebSocket(asyncio.Protocol):
    """The transport's protocol after the 101, and in the connection's place for the service."""

    is_movable = False
    __slots__ = (
        "_awaits_pong",
        "_framing",
        "_heard",
        "_inbox",
        "_pings",
        "_reading",
        "_rest",
        "_service",
        "_unsent",
        "_written",
        "exchange",
        "expires",
        "phase",
        "tally",
        "transport",
        "write_paused",
    )

    def __init__(self, connection: Connection, framing: Framing, inbox: Inbox) -> None:
        self.exchange = None  # no request is under way here, whose cutting would be counted
        self.expires = connection.service.tick + connection.service.ping_ticks
        self.phase = OPEN
        self.tally = connection.tally
        self.transport = connection.transport
        self.write_paused = False
        self._framing = framing
        self._inbox = inbox
        self._service = connection.service
        self._pings = self._service.ping_ticks < NEVER
        self._rest = b""  # read, but not parsed while the inbox is full
        self._reading = True
        self._awaits_pong = False
        self._heard = False  # bytes of a frame have come since the ping
        self._unsent = 0
        self._written = 0  # since the loop was last given its turn

    @property
    def is_reading(self) -> bool:
        """Whether the transport is to read."""
        return self._reading

    # What the app's exchange calls.

    def write(self, message: Any) -> None:
        """Send the app's `websocket.send`."""
        text = message.get("text")
        framing = self._framing
        data = framing.binary(message["bytes"]) if text is None else framing.text(text)
        self.transport.write(data)
        self._written += len(data)
        if self._written > TOGETHER:
            self._written = 0
            give_way(self, self._service.loop, self._service.context)

    def close(self, code: int, reason: str) -> None:
        """Send our close frame; the client has a moment for its own. Raises `CodeError`."""
        self.transport.write(self._framing.close(code, reason))
        self.phase = CLOSING
        self._await_end()
        self.read_on()

    def read_on(self) -> None:
        """Parse what was read, as far as there is room for it, and read more when that is done."""
        while self._rest and not self._is_full():
            piece, self._rest = self._rest[:_SLICE], self._rest[_SLICE:]
            self._digest(piece)
        if not (self._rest or self._reading or self._is_full() or self.transport.is_closing()):
            self._reading = True
            self.transport.resume_reading()

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        if self._rest or len(data) > _SLICE:
            self._rest += data
            self.read_on()
        else:
            self._digest(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self.phase = CLOSED
        self.expires = NEVER
        self._rest = b""
        self._inbox.hang_up(ABNORMAL, "")
        self._inbox.on_empty = None
        self._service.forget(self)

    def pause_writing(self) -> None:
        self.write_paused = True
        if not self._pings and self.phase is OPEN:
            self._watch_writing()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.phase is not OPEN:
            self._await_end()
        elif not self._pings:
            self.expires = NEVER
        self.read_on()
        self._inbox.wake()

    # What the service calls.

    @property
    def is_quiet(self) -> bool:
        """The client was told of the end."""
        return self.phase is not OPEN

    def leave(self) -> None:
        """The worker is going: the client should come back, to another."""
        if self.phase is OPEN:
            self._inbox.hang_up(RESTARTING, "service restart")
            self.close(RESTARTING, "service restart")

    def cut(self) -> None:
        """Give up on the client, without a further byte."""
        self._inbox.hang_up(ABNORMAL, "")
        self.phase = CLOSED
        self.transport.abort()

    def expire(self) -> None:
        """The deadline has passed: the next ping's, its pong's, that of a client that takes nothing, or the end's."""
        if self.phase is not OPEN:
            if self._has_taken():
                self._await_end()
            else:
                self.transport.abort()
        elif not self._pings:
            if self._has_taken():
                self._watch_writing()
            else:
                self.cut()
        elif not self._awaits_pong:
            self._awaits_pong, self._heard = True, False
            self.transport.write(self._framing.ping())
            self._unsent = unsent(self.transport)
            self.expires = self._service.tick + self._service.pong_ticks
        elif self._is_excused():
            self._heard = False
            self.expires = self._service.tick + self._service.pong_ticks
        else:
            self._inbox.hang_up(ABNORMAL, "keepalive ping timeout")
            self.close(APP_FAILED, "keepalive ping timeout")

    def _is_excused(self) -> bool:
        """Whether a pong may well be on its way: behind what we don't read, or what the client is still busy with. Who
        takes nothing is not excused by our not reading, which may be for that."""
        return self._has_taken() or self._heard or not (self._reading or self.write_paused)

    def _has_taken(self) -> bool:
        """Whether the client is at it: has taken something since this was asked last, and not all."""
        before, self._unsent = self._unsent, unsent(self.transport)
        return 0 < self._unsent < before

    def _watch_writing(self) -> None:
        """Without pings, only a client that takes nothing has a deadline."""
        self._unsent = unsent(self.transport)
        self.expires = self._service.tick + self._service.write_idle_ticks

    def _await_end(self) -> None:
        """The client has a moment for its end, from when it has all of ours."""
        if self.transport.get_write_buffer_size():
            self._watch_writing()
        else:
            self.expires = self._service.tick + self._service.closing_ticks

    # Bytes.

    def _digest(self, data: bytes) -> None:
        if self.phase is PARTED:
            return
        framing = self._framing
        messages = framing.receive(data)
        if messages and self.phase is OPEN:
            self._inbox.put(messages)
        if framing.heed:
            framing.heed = False
            self._heed(framing)
        if self._reading and self._is_full():
            self._reading = False
            self.transport.pause_reading()

    def _heed(self, framing: Framing) -> None:
        """Do what the library has found besides messages."""
        self._heard = True
        if data := framing.outgoing():
            self.transport.write(data)
        if framing.ponged:
            framing.ponged = False
            if self._awaits_pong and self.phase is OPEN:
                self._awaits_pong = False
                self.expires = self._service.tick + self._service.ping_ticks
        if framing.closed is not None:
            self._inbox.hang_up(framing.closed.code, framing.closed.reason)
            self._part(framing.broken)

    def _part(self, broken: bool) -> None:
        """Both sides have said that it is over. It is the server that closes first (RFC 6455 section 7.1.1)."""
        self.phase = PARTED
        self._rest = b""
        self._await_end()
        if broken and self.transport.can_write_eof():  # TLS can't, and reads on by itself
            self.transport.write_eof()
            self.read_on()
        else:
            self.transport.close()

    def _is_full(self) -> bool:
        """Whether to read no further."""
        if self.phase is not OPEN:
            return False
        if self._inbox.is_full():
            return True
        return self.write_paused and self.transport.get_write_buffer_size() > self._service.limits.read_ahead
