"""Fresh connections, for as long as they may be over with their first request.

To make and to end a transport of the event loop's costs more than a request does. A client whose first request says
that it is the last (`Connection: close`, HTTP/1.0) needs none, if it is there when the connection is taken, is answered
soon, and the kernel takes the answer whole. Everybody else is given one.

Invariants:
- A bare transport reads the first bytes and nothing else. So whoever may send more gets a real one at once, and whoever
  can only go, which somebody may wait for, after `SOON`.
- What was written goes out in order: what the kernel has not taken from a bare transport, the real one writes first.
- A descriptor is closed once: by the bare transport, until the loop has it.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from supervisor.serve.attaching import attach

if TYPE_CHECKING:
    from supervisor.serve.http1.connection import Connection
    from supervisor.serve.websocket.socket import WebSocket

FIRST = 8192  # bytes that are read at first: most requests are less
SOON = 0.01  # seconds that an answer has, at least, before its client is watched


class Newcomers:
    """Those of one worker."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
        introduce: Callable[[Connection, str, object, object], None],
    ) -> None:
        self.loop = loop
        self._context = context
        self._introduce = introduce
        self._ended: list[Connection | WebSocket] = []  # to be told, in the next turn of the loop
        self._newer: list[BareTransport] = []  # whose last answer was not there at once
        self._older: list[BareTransport] = []  # the same, for `SOON` or longer
        self._is_looking = False

    def welcome(self, connection: Connection, sock: socket.socket, peer: object, here: object) -> None:
        """Serve what has come on `sock`, which is `connection`'s from now on, and whose addresses are `peer` and `here`
        as `accept` has them; None are asked for."""
        sock.setblocking(False)
        transport = connection.transport = BareTransport(self, connection, sock)
        self._introduce(connection, "http", peer, here)
        try:
            data = sock.recv(FIRST)
        except BlockingIOError:
            transport.settle()
            return
        except OSError:  # gone again
            data = b""
        if not data:
            transport.close()
            return
        try:
            connection.data_received(data)
        except BaseException:
            transport.abort()
            raise
        if not connection.awaits_last_answer:
            transport.settle()
        else:
            self._newer.append(transport)
            if not self._is_looking:
                self._is_looking = True
                self.loop.call_later(SOON, self._look)

    def bury(self, protocol: Connection | WebSocket) -> None:
        """Its transport has ended."""
        if not self._ended:
            self.loop.call_soon(self._tell_ended, context=self._context)
        self._ended.append(protocol)

    def _tell_ended(self) -> None:
        ended, self._ended = self._ended, []
        for protocol in ended:
            protocol.connection_lost(None)

    def _look(self) -> None:
        """Settle those who have waited since the last look."""
        late, self._older, self._newer = self._older, self._newer, []
        for transport in late:
            transport.settle()
        self._is_looking = bool(self._older)
        if self._is_looking:
            self.loop.call_later(SOON, self._look)


class BareTransport(asyncio.Transport):
    """Writes to a socket, and knows how to become a transport of the event loop's."""

    __slots__ = ("_arrives", "_closing", "_cut", "_ended", "_newcomers", "_protocol", "_sock", "_unsent")

    def __init__(self, newcomers: Newcomers, protocol: Connection, sock: socket.socket) -> None:
        self._newcomers = newcomers
        self._protocol: Connection | WebSocket = protocol
        self._sock = sock
        self._unsent = b""
        self._arrives = False  # the loop has the socket, and the real transport is on its way
        self._ended = False  # our half is to be closed
        self._closing = False
        self._cut = False  # not even `_unsent` is written

    # What a protocol calls.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return
        if sent < len(data):
            self._unsent = bytes(data[sent:])
            self._protocol.pause_writing()
            self.settle()

    def write_eof(self) -> None:
        self._ended = True
        self.settle()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._arrives:
            self._sock.close()
            self._newcomers.bury(self._protocol)
            del self._protocol  # whose transport this is: garbage that refers to itself takes long to find

    def abort(self) -> None:
        self._cut = True
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing is read. The real transport asks the protocol."""

    def resume_reading(self) -> None:
        """As `pause_reading`."""

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Always 0."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self._sock
        try:
            return {"peername": self._sock.getpeername, "sockname": self._sock.getsockname}[name]()
        except (KeyError, OSError):
            return default

    def get_protocol(self) -> Connection | WebSocket:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol  # type: ignore[assignment]  # those who come here are of two kinds
        self.settle()

    # How it becomes another.

    def settle(self) -> None:
        """Give the protocol a transport that reads. Does nothing when it is on its way, or none is needed any more."""
        if self._arrives or self._closing:
            return
        self._arrives = True
        self._sock = attach(self._newcomers.loop, _Arrival(self), self._sock)

    def replace(self, real: asyncio.Transport) -> None:
        """`real` is there: it does what is left to be done."""
        protocol = self._protocol
        del self._protocol
        protocol.transport = real
        real.set_protocol(protocol)
        real.set_write_buffer_limits(0)
        if self._cut:
            real.abort()
            return
        if self._unsent:
            real.write(self._unsent)
            if not real.get_write_buffer_size():
                protocol.resume_writing()
        if self._ended:
            real.write_eof()
        if self._closing:
            real.close()
        if not protocol.is_reading:
            self._newcomers.loop.call_soon(_hold, protocol)  # it begins to read as soon as we return

    def fail(self) -> None:
        """There is no other."""
        self._closing = True
        self._protocol.connection_lost(None)


class _Arrival(asyncio.Protocol):
    """The protocol of a real transport until it replaces `bare`."""

    def __init__(self, bare: BareTransport) -> None:
        self._bare = bare

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._bare.replace(transport)  # type: ignore[arg-type]

    def connection_lost(self, _exc: Exception | None) -> None:
        self._bare.fail()


def _hold(protocol: Connection | WebSocket) -> None:
    if not protocol.is_reading:
        protocol.transport.pause_reading()
