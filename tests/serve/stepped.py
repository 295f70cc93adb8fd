"""A service without sockets, threads or a clock: a loop that stands still between steps, and clients in memory.

Invariant: the same calls give the same run. Nothing happens but in `Wired.settle` and `Wired.advance`, and a transport
does what uvloop's does: writes that the client has no room for pause the protocol at once, a paused one is read no
further, and what may not be written any more raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Iterator
from typing import Any

from supervisor.config.settings import AppSettings, Interface
from supervisor.kernel.board import Cell, private_row
from supervisor.serve.limits import Limits
from supervisor.serve.service import Service


class _Standstill(selectors.SelectSelector):
    """Stops its loop as soon as that would wait."""

    loop: SteppedLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self.loop.stop()
        return []


class SteppedLoop(asyncio.SelectorEventLoop):
    """Time stands still; `connect_accepted_socket` and readers are those of `Client`s."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _Standstill()
        super().__init__(selector)
        selector.loop = self
        self.failures: list[BaseException] = []  # what escaped from a callback: must stay empty
        self.set_exception_handler(self._failed)
        self.readers: dict[int, Any] = {}

    def time(self) -> float:
        return self.now

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(context.get("exception") or RuntimeError(context["message"]))

    async def connect_accepted_socket(self, protocol_factory: Any, sock: Any, **_: Any) -> Any:
        client: Client = sock.client
        protocol = protocol_factory()
        client.transport = MemoryTransport(self, protocol, client)
        made: asyncio.Future[None] = self.create_future()
        self.call_soon(protocol.connection_made, client.transport)
        self.call_soon(client.transport.reset if client.has_gone else client.transport.look)
        self.call_soon(made.set_result, None)
        await made
        return client.transport, protocol

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        self.readers[fd] = (callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        return self.readers.pop(fd, None) is not None

    def call_reader(self, fd: int) -> None:
        """There is something to read; by now, perhaps nobody reads any more."""
        reader = self.readers.get(fd)
        if reader is not None:
            reader[0](*reader[1:])


class MemoryTransport(asyncio.Transport):
    """The server's end of a connection. Failures in the protocol's callbacks go to the loop's `failures`."""

    def __init__(self, loop: SteppedLoop, protocol: Any, client: Client) -> None:
        names = {"peername": client.address, "sockname": ("127.0.0.1", 8000)}
        super().__init__(names | {"socket": AttachedSocket(client)})
        self._loop = loop
        self._protocol = protocol
        self._client = client
        self._unsent = bytearray()
        self._high = 0
        self._reading = True
        self._paused = False
        self._looking = False
        self._ended = self._closing = self._losing = self.lost = False
        self.largest_read = 0  # bytes that the protocol was given at once

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or 0

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: Any) -> None:
        if self._ended or self.lost:
            raise RuntimeError(f"a write after the end: {bytes(data)!r}")
        if not self._losing:
            self._unsent += data
            if not self._paused:
                self.push()
            if len(self._unsent) > self._high and not self._paused:
                self._paused = True
                self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def push(self) -> None:
        """Hand over what the client has room for."""
        client = self._client
        count = min(len(self._unsent), client.room)
        client.received += self._unsent[:count]
        client.room -= count
        del self._unsent[:count]
        if not self._unsent:
            if self._paused:
                self._paused = False
                self._protocol.resume_writing()
            client.ended = client.ended or self._ended
            if self._closing:
                self._lose(None)

    def write_eof(self) -> None:
        self._ended = True
        self.push()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._reading = False
            self.push()

    def abort(self) -> None:
        self._client.was_cut = True
        self._unsent.clear()
        self._closing = True
        self._lose(None)

    def reset(self) -> None:
        """The client is gone."""
        self._unsent.clear()
        self._closing = True
        self._lose(ConnectionResetError())

    def _lose(self, error: Exception | None) -> None:
        if not self._losing:
            self._losing = True
            self._reading = False
            self._loop.call_soon(self._call_lost, error)

    def _call_lost(self, error: Exception | None) -> None:
        self.lost = self._client.closed = True
        self._protocol.connection_lost(error)

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._closing and not self._reading:
            self._reading = True
            self._client.join()
            self.look()

    def look(self) -> None:
        """Read the client's next bytes, or its end, in a turn of the loop of its own."""
        client = self._client
        if self._reading and not self._looking and (client.unread or (client.has_ended and not client.end_was_told)):
            self._looking = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._looking = False
        client = self._client
        if not self._reading:
            return
        try:
            if client.unread:
                data = client.unread.popleft()
                self.largest_read = max(self.largest_read, len(data))
                self._protocol.data_received(data)
            elif client.has_ended and not client.end_was_told:
                client.end_was_told = True
                if not self._protocol.eof_received():
                    self.close()
        finally:
            self.look()


class Client:
    """The far end of a connection."""

    def __init__(self, wired: Wired, room: int, address: tuple[str, int]) -> None:
        """`room`: how many bytes the kernel takes before the client reads any."""
        self.address = address
        self.room = room
        self.transport: MemoryTransport | None = None
        self.unread: deque[bytes] = deque()  # sent, and not read by the server
        self.largest_first = 0  # bytes that were there when the connection was taken
        self.received = bytearray()
        self.has_ended = False  # our half
        self.end_was_told = False
        self.ended = False  # the server's half
        self.closed = False  # both
        self.was_cut = False  # without a word
        self.has_gone = False  # us, in the same way
        self._wired = wired

    def send(self, data: bytes) -> None:
        """One packet."""
        if data and not self.closed:
            self.unread.append(data)
            self._tell()

    def end(self) -> None:
        """Half-close."""
        self.has_ended = True
        self._tell()

    def reset(self) -> None:
        """Go without a word."""
        self.has_gone = True
        if self.transport is not None and not self.closed:
            self.transport.reset()

    def take(self, count: int) -> None:
        """Make room for `count` bytes more."""
        self.room += count
        if self.transport is not None and not self.closed:
            self._wired.loop.call_soon(self.transport.push)

    def join(self) -> None:
        """What waits in the kernel loses its seams."""
        if len(self.unread) > 1:
            data = b"".join(self.unread)
            self.unread.clear()
            self.unread.append(data)

    def _tell(self) -> None:
        if self.transport is not None:
            self.transport.look()
        else:
            self._wired.loop.call_soon(self._wired.loop.call_reader, id(self))


class AttachedSocket:
    """What a transport tells of its socket: real ones stand in, for a client that is there, has ended, or has gone."""

    family = socket.AF_UNIX
    there, their_end = socket.socketpair()
    ended, _their_ended_end = socket.socketpair()
    gone, _their_closed_end = socket.socketpair()
    _their_ended_end.shutdown(socket.SHUT_WR)
    _their_closed_end.close()

    def __init__(self, client: Client) -> None:
        self._client = client

    def fileno(self) -> int:
        client = self._client
        return (self.gone if client.has_gone else self.ended if client.has_ended else self.there).fileno()

    def setsockopt(self, *_: object) -> None:
        """Resets are cuts here, too."""

    def getsockopt(self, *_: object) -> bytes:
        raise OSError


class AcceptedSocket(AttachedSocket):
    """What the service gets for a `Client`."""

    family = socket.AF_INET

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.client = client

    def getpeername(self) -> tuple[str, int]:
        return self.client.address

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 8000

    def setblocking(self, _is_blocking: bool) -> None:
        """It never blocks."""

    def fileno(self) -> int:
        return id(self.client)

    def recv(self, size: int, flags: int = 0) -> bytes:
        client = self.client
        client.join()
        if client.has_gone:
            raise ConnectionResetError
        if not client.unread:
            if client.has_ended:
                return b""
            raise BlockingIOError
        data = client.unread.popleft()
        if flags & socket.MSG_PEEK:
            client.unread.appendleft(data)
        elif data[size:]:
            client.unread.appendleft(data[size:])
        return data[:size]

    def send(self, data: bytes) -> int:
        client = self.client
        if client.has_gone:
            raise ConnectionResetError
        count = min(len(data), client.room)
        if not count:
            raise BlockingIOError
        client.received += data[:count]
        client.room -= count
        return count

    def close(self) -> None:
        self.client.closed = True


class Wired:
    """A service to connect to; use it in a `with` statement, after which nothing of it may be left over."""

    def __init__(
        self, app: object, interface: Interface = "asgi", *, limits: Limits | None = None, **settings: Any
    ) -> None:
        self.loop = SteppedLoop()
        self.row = private_row()
        self.service = Service(
            app=app,
            interface=interface,
            settings=AppSettings(name="web", app="m:app", threads=1, **settings),
            row=self.row,
            loop=self.loop,
            access_log=None,
            on_room=lambda: None,
            on_empty=lambda: None,
        )
        if limits is not None:
            self.service.set_limits(limits)

    def __enter__(self) -> Wired:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.close()

    def start(self) -> None:
        """Start the app and the service's clock, which deadlines need."""
        self.loop.create_task(self.service.startup())
        self.settle()

    def connect(
        self, room: int = 1 << 40, address: tuple[str, int] = ("127.0.0.1", 50000), first: bytes = b""
    ) -> Client:
        """A fresh connection, on which `first` has come by the time that it is taken."""
        client = Client(self, room, address)
        if first:
            client.unread.append(first)
            client.largest_first = len(first)
        with self._running():
            self.service.accepted(AcceptedSocket(client))  # type: ignore[arg-type]
        return client

    def settle(self) -> None:
        """Run whatever is ready, until nothing is. Raises what escaped from a callback."""
        self.loop.run_forever()
        if self.loop.failures:
            raise self.loop.failures.pop()

    def advance(self, seconds: float) -> None:
        """Move the clock and settle."""
        self.loop.now += seconds
        self.settle()

    def cell(self, cell: Cell) -> int:
        return self.row[cell]

    def assert_idle(self) -> None:
        """Every connection is closed, and nothing is left of it."""
        service = self.service
        assert not service.roster
        assert service.connections == service.inflight == 0
        assert not service.bridge.is_running()
        assert self.cell(Cell.CONNECTIONS) == 0
        assert self.cell(Cell.STARTED) == self.cell(Cell.FINISHED) + self.cell(Cell.CUT)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        asyncio._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)
