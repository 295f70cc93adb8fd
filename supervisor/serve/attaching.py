"""Connections get their transports.

Invariants: a descriptor is closed once. A connection that gets no transport, or whose TLS handshake comes to nothing,
is told of its end; the latter is counted.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Coroutine
from typing import Any

from supervisor.kernel.board import Cell
from supervisor.serve.edge.secure import Handshake, SecureConnection


def attach(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.Protocol,
    sock: socket.SocketType,
    tls: dict[str, Any] | None = None,
) -> socket.socket:
    """Make `protocol` that of `sock`, with these terms of TLS, if any. The socket is the loop's from now on; it is
    returned as one that the loop can let go of, as it closes the descriptor itself."""
    if isinstance(sock, socket.SocketType) and not isinstance(sock, socket.socket):
        # Any but Python's own uvloop closes itself, behind the descriptor, whose number may be another's by then.
        sock = socket.socket(sock.family, sock.type, sock.proto, sock.detach())
    attaching = loop.connect_accepted_socket(lambda: protocol, sock, **(tls or {}))
    try:
        # Driven by hand: the coroutine awaits one future, and a task around that would cost as much as a request.
        waiter: asyncio.Future[None] = attaching.send(None)
    except OSError:
        sock.close()
        loop.call_soon(protocol.connection_lost, None)
        return sock
    if isinstance(protocol, SecureConnection):
        protocol.transport = Handshake(waiter)
    waiter.add_done_callback(functools.partial(_attached, protocol, attaching))
    return sock


def _attached(protocol: asyncio.Protocol, attaching: Coroutine[Any, Any, Any], _waiter: asyncio.Future[None]) -> None:
    try:
        attaching.send(None)
    except StopIteration:
        return
    except (OSError, asyncio.CancelledError) as error:
        # During the handshake nobody else will tell it.
        if isinstance(protocol, SecureConnection) and isinstance(protocol.transport, Handshake):
            if isinstance(error, (ssl.SSLError, ConnectionAbortedError)):  # the latter when it took too long
                protocol.tally.refuse(Cell.TLS)
            protocol.connection_lost(None)
