"""Connections get their transports.

Invariant: a connection whose TLS handshake comes to nothing is told of its end, and counted.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from supervisor.kernel.board import Cell
from supervisor.serve.edge.secure import Handshake

if TYPE_CHECKING:
    from supervisor.serve.http1.connection import Connection


def attach(loop: asyncio.AbstractEventLoop, connection: Connection, sock: socket.socket, tls: dict[str, Any]) -> bool:
    """Make `connection` the protocol of `sock`, with these terms of TLS, if any. False, and the socket is closed, when
    it is of no use any more."""
    attaching = loop.connect_accepted_socket(lambda: connection, sock, **tls)
    try:
        # Driven by hand: the coroutine awaits one future, and a task around that would cost as much as a request.
        waiter: asyncio.Future[None] = attaching.send(None)
    except OSError:
        sock.close()
        return False
    if tls:
        connection.transport = Handshake(waiter)
    waiter.add_done_callback(functools.partial(_attached, connection, attaching))
    return True


def _attached(connection: Connection, attaching: Coroutine[Any, Any, Any], _waiter: asyncio.Future[None]) -> None:
    try:
        attaching.send(None)
    except StopIteration:
        return
    except (OSError, asyncio.CancelledError) as error:
        if isinstance(connection.transport, Handshake):  # nobody else will tell it
            if isinstance(error, (ssl.SSLError, ConnectionAbortedError)):  # the latter when it took too long
                connection.tally.refuse(Cell.TLS)
            connection.connection_lost(None)
