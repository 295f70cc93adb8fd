"""What stands between a protocol and the event loop's TLS, so that it knows what its client has yet to take.

TLS encrypts all that it is given, and hands all of it to a transport of TCP below it, whose buffer nobody above sees:
of an answer of megabytes nothing seems unsent. Given it in pieces, each when the one before has been taken, no more
than a piece or two and what the kernel holds is out of sight.

Invariant: towards the protocol it behaves as the loop's transport of plain TCP does whose limits are 0: bytes in order,
writing paused as long as there is something unsent, and `close` ends what was written first.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import termios
from typing import Any

PIECE = 64 * 1024


class PacedTransport(asyncio.Transport):
    """Writes to `real`, whose protocol it becomes, for the sake of `pause_writing` and `resume_writing`. All else that
    a protocol is called for goes straight to `protocol`."""

    __slots__ = (
        "_closing",
        "_held",
        "_paused",
        "_protocol",
        "_real",
        "connection_lost",
        "data_received",
        "eof_received",
    )

    def __init__(self, real: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._real = real
        self._held = bytearray()  # what the real one is yet to be given
        self._paused = False  # as the protocol knows
        self._closing = False
        self.set_protocol(protocol)

    def start(self) -> None:
        """Be what both sides talk to. Something may be unsent already, of which the protocol is told."""
        self._real.set_protocol(self)  # type: ignore[arg-type]  # it has the methods of one
        self._real.set_write_buffer_limits(1, 0)  # pauses from `high` on: at 0 it would always be paused

    # What the protocol calls.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        if len(data) <= PIECE and not self._held:
            self._real.write(data)
            return
        self._held += data
        self._go_on()
        if self._held:
            self._tell(paused=True)

    def get_write_buffer_size(self) -> int:
        return len(self._held) + self._real.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Always 0."""

    def close(self) -> None:
        self._closing = True
        if not self._held:
            self._real.close()

    def abort(self) -> None:
        self._closing = True
        self._held.clear()
        self._real.abort()

    def is_closing(self) -> bool:
        return self._closing or self._real.is_closing()

    def can_write_eof(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return self._real.is_reading()

    def pause_reading(self) -> None:
        self._real.pause_reading()

    def resume_reading(self) -> None:
        self._real.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._real.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol: asyncio.Protocol = protocol  # type: ignore[assignment]
        self.data_received = self._protocol.data_received
        self.eof_received = self._protocol.eof_received
        self.connection_lost = self._protocol.connection_lost

    # What the real transport calls.

    def connection_made(self, _transport: asyncio.BaseTransport) -> None:
        """It was, before."""

    def pause_writing(self) -> None:
        self._tell(paused=True)

    def resume_writing(self) -> None:
        self._go_on()
        if self.get_write_buffer_size():
            return
        if self._closing:
            self._real.close()
        self._tell(paused=False)

    def _go_on(self) -> None:
        """Give the real one as much as it takes."""
        held, real = self._held, self._real
        while held and not (real.get_write_buffer_size() or real.is_closing()):
            piece = bytes(held[:PIECE])
            del held[:PIECE]
            real.write(piece)

    def _tell(self, *, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            if paused:
                self._protocol.pause_writing()
            else:
                self._protocol.resume_writing()


def unsent(transport: asyncio.Transport) -> int:
    """Bytes that the client has yet to take: of the transport's own, and of the kernel's (tcp(7), SIOCOUTQ)."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, count)
    except (OSError, AttributeError):  # closed meanwhile, or no socket
        count[0] = 0
    return transport.get_write_buffer_size() + count[0]
