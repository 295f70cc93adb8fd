"""Who a connection's client and server are, and by which scheme they speak: what ASGI and WSGI tell the app.

Invariant: the sockets' own addresses count, unless a PROXY header or the worker that had the connection before has told
others; and what was told holds for that connection alone. Where PROXY headers are expected, the balancer only passes on
what its clients say: a connection speaks for others when its header names a client, by an address that is trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.messages.wire import HandOver
from supervisor.serve.edge.peers import Client, Origin, Server, Trust

if TYPE_CHECKING:
    from supervisor.serve.edge.proxy import Told
    from supervisor.serve.http1.connection import Connection

_SERVERS_KEPT = 256


class Introduction:
    """Introduces connections. Server addresses are few, and are shared."""

    def __init__(self, trust: Trust, passes_on: bool) -> None:
        self._trust = trust
        self._passes_on = passes_on  # a trusted peer is a balancer, which sends PROXY headers
        self._told: dict[Connection, Told | HandOver] = {}  # of connections about to be made
        self._servers: dict[object, tuple[str, int | None]] = {}

    def expect(self, connection: Connection, told: Told | HandOver) -> None:
        """What was told of a connection whose transport is about to be there."""
        self._told[connection] = told

    def forget(self, connection: Connection) -> None:
        """It has come to nothing."""
        self._told.pop(connection, None)

    def introduce(self, connection: Connection, scheme: str, peer: object = None, here: object = None) -> None:
        """Tell a connection that has just got its transport its client, its server, and whom it may speak for. `peer`
        and `here` are its ends as `accept` has told them; None was not told, and is asked for."""
        told = self._told.pop(connection, None) if self._told else None
        client: Client
        server: Server
        if isinstance(told, HandOver):
            client, server, scheme = told.client, told.server and self._shared(told.server), told.scheme
        else:
            if peer is None:
                peer = connection.transport.get_extra_info("peername")
            client = (peer[0], peer[1]) if isinstance(peer, tuple) else None
            if here is None:
                here = connection.transport.get_extra_info("sockname")
            server = self._shared(here)
            if told is not None:
                client = None if told.is_unix else told.source or client
                server = told.destination or server
                scheme = "https" if told.secure else scheme
        connection.client, connection.server, connection.scheme = client, server, scheme
        host = client[0] if client else None
        speaks = self._trust.covers(host) and not (self._passes_on and _is_unnamed(connection))
        connection.label = self._trust.label(host, speaks)
        if speaks:
            connection.origin = Origin(connection, self._trust)

    def _shared(self, here: object) -> tuple[str, int | None]:
        server = self._servers.get(here)
        if server is None:
            server = (here[0], here[1]) if isinstance(here, tuple) else (str(here or ""), None)
            if len(self._servers) < _SERVERS_KEPT:
                self._servers[here] = server
        return server


def _is_unnamed(connection: Connection) -> bool:
    """Whether the client has no address but perhaps the peer's own, since the header was LOCAL or UNKNOWN. Of a peer
    that has gone nobody can tell."""
    client, peer = connection.client, connection.transport.get_extra_info("peername")
    return client is None or peer is None or client == tuple(peer[:2])
