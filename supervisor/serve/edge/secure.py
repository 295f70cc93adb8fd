"""A connection over TLS: uvloop's transport does the cryptography, and this what it does otherwise than TCP's.

Invariants. Until the handshake is done `transport` is a stand-in that can only give up, and nobody is owed an answer.
TLS has no half-close worth the name: ending means to flush, say close_notify, and read on until the client's end
(RFC 8446 section 6.1), which the transport does by itself. In that state a client is given up on when the kernel has
nothing left for it, or when it has taken nothing for too long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from supervisor.serve.edge.paced import PacedTransport, unsent
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
    __slots__ = ("_closes_at", "_left", "_tls", "tls")

    def __init__(self, service: Service, tally: Tally, tls: Tls) -> None:
        super().__init__(service, tally)
        self._tls = tls
        self._closes_at = NEVER
        self._left = 0  # bytes that the client had yet to take when that was looked at last
        self.tls: Agreed | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = paced = PacedTransport(transport, self)  # type: ignore[arg-type]
        paced.start()
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
        tick, left = self.service.tick, unsent(self.transport) if self.state is CLOSING else 0
        if left != self._left:
            self._left = left
            self._closes_at = tick + self.service.write_idle_ticks
        if left and tick < self._closes_at:
            self.expires = tick + self.service.closing_ticks
        else:
            super().expire()
