"""A connection over TLS: uvloop's transport does the cryptography, and this what it does otherwise than TCP's.

Invariants. Until the handshake is done `transport` is a stand-in that can only give up, and nobody is owed an answer.
TLS has no half-close worth the name: ending means to flush, say close_notify, and read on until the client's end
(RFC 8446 section 6.1), which the transport does by itself. Its own buffer below TLS is out of our sight, so a client is
given up on in that state only when the kernel has nothing left for it, or for too long.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import termios
from typing import TYPE_CHECKING

from supervisor.serve.edge.tls import Agreed, Tls, describe
from supervisor.serve.http1.connection import Connection
from supervisor.serve.http1.state import CLOSING
from supervisor.serve.limits import NEVER

if TYPE_CHECKING:
    from supervisor.serve.service import Service
    from supervisor.serve.tally import Tally


class Handshake(asyncio.Transport):
    """Stands in for a transport while the handshake, which `waiter` is the future of, goes on."""

    def __init__(self, waiter: asyncio.Future[None]) -> None:
        super().__init__()
        self._waiter = waiter

    def close(self) -> None:
        self._waiter.cancel()

    abort = close


class SecureConnection(Connection):
    """Drives one client's decrypted bytes."""

    is_movable = False  # the keys, and what TLS has read ahead, are in this process
    __slots__ = ("_closes_at", "_tls", "tls")

    def __init__(self, service: Service, tally: Tally, tls: Tls) -> None:
        super().__init__(service, tally)
        self._tls = tls
        self._closes_at = NEVER
        self.tls: Agreed | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(1, 0)  # pauses from `high` on: at 0 it would always be paused
        self.service.introduce(self, "https")
        self.expires = self.service.tick + self.service.first_byte_ticks
        self.tls = describe(self._tls, transport.get_extra_info("ssl_object"))

    def eof_received(self) -> bool:
        """The client's close_notify is the end of both directions here."""
        super().eof_received()
        return False

    def _linger(self) -> None:
        self.flush()
        self._rest = b""
        self.body = None
        self._close()

    def _close(self) -> None:
        self._closes_at = self.service.tick + self.service.write_idle_ticks
        super()._close()

    def expire(self) -> None:
        if self.state is CLOSING and self.service.tick < self._closes_at and _unsent(self.transport):
            self.expires = self.service.tick + self.service.closing_ticks
        else:
            super().expire()


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes that the kernel still has for the client (tcp(7), SIOCOUTQ)."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, count)
    except (OSError, AttributeError):  # closed meanwhile
        return 0
    return count[0]
