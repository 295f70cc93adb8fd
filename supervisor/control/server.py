"""The control API's server: accepts, checks who calls, and hands each client a `Connection`.

Invariants:
- Only a permitted user's request reaches the master, and at most MAX_CLIENTS are served at once.
- Neither a crowd, nor what it does, nor a shortage of descriptors keeps the master from its work: a turn of its loop
  has ACCEPT_BUDGET for those who come, and for those who are in what the `Lane` has.
- A newcomer who may come in gets in. If that takes another's place, it is one of somebody who has asked for nothing
  yet, or else has kept the master waiting longest.

Imported by the master: nothing heavy belongs here.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Sequence

from supervisor.control import access
from supervisor.control.access import Access, Peer, Permit
from supervisor.control.connection import Connection
from supervisor.control.feed import Feed
from supervisor.control.loading import import_next
from supervisor.control.port import Supervision
from supervisor.control.routes import Answer, Reply, Request, error, route
from supervisor.kernel.lane import Lane
from supervisor.kernel.reactor import Reactor

MAX_CLIENTS = 64
MAX_OF_A_USER = 48  # so that root, or the instance's own user, gets in whatever another's clients do
MAX_REFUSED = 64  # being told so at once; beyond it they are just closed
ACCEPT_BUDGET = 0.001  # seconds at once
SHORTAGE_PAUSE = 1.0  # seconds without accepting when the kernel has no descriptor or memory left
CLOSE_GRACE = 0.25  # seconds for the last answers to leave

_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class ControlServer:
    """Serves `supervision` on `listener`, a listening unix stream socket that this takes over (not its path)."""

    def __init__(
        self, listener: socket.socket, reactor: Reactor, supervision: Supervision, *, permit: Permit | None = None
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._reactor = reactor
        self._lane = Lane(reactor)
        self._supervision = supervision
        self._permit = permit or access.permit()
        self._feed = Feed(supervision.subscribe)
        self._clients: dict[Connection, Peer] = {}
        self._refused: set[Connection] = set()
        self._answering = 0
        self._closed = False
        reactor.add_reader(listener.fileno(), self._on_connection)  # the lane is for those who are in

    @property
    def is_busy(self) -> bool:
        """Somebody's request is arriving, or its answer is leaving."""
        return any(connection.is_busy for connection in self._clients)

    def give_up(self) -> list[socket.socket]:
        """End streams of events, and let go of those who are between two requests: for `take`, here or elsewhere."""
        idle = [connection for connection in self._clients if connection.is_idle]
        others = self._refused.union(self._clients).difference(idle)
        socks = [connection.give_up() for connection in idle]
        for connection in others:
            connection.finish()
        self._flush(others)
        for connection in others:
            connection.close()
        return socks

    def take(self, socks: Sequence[socket.socket]) -> None:
        """Go on with connections that another server has given up."""
        for sock in socks:
            self._admit(sock)

    def close(self) -> None:
        """Stop listening; give answers and events that are under way a moment (0.25 s) to leave, then drop the rest.

        Called from within a command, as by `shutdown`, it ends after that command's own answer.
        """
        if not self._closed:
            self._closed = True
            self._reactor.remove_reader(self._listener.fileno())
            self._listener.close()
        if self._answering:
            self._reactor.call_later(0, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        everybody = self._refused.union(self._clients)
        for connection in everybody:
            connection.finish()
        self._flush(everybody)
        for connection in everybody:
            connection.close()
        self._lane.close()

    def _flush(self, connections: set[Connection]) -> None:
        deadline = self._reactor.now() + CLOSE_GRACE
        waiting = {connection for connection in connections if connection.has_output}
        while waiting and (left := deadline - self._reactor.now()) > 0:
            poll = select.poll()
            for connection in waiting:
                poll.register(connection, select.POLLOUT)
            poll.poll(left * 1000)
            for connection in waiting:
                connection.flush()
            waiting = {connection for connection in waiting if connection.has_output}

    def _respond(self, request: Request, access: Access) -> Reply:
        self._answering += 1
        try:
            return route(request, self._supervision, access)
        finally:
            self._answering -= 1

    def _on_connection(self) -> None:
        """Take those who wait, for a moment."""
        if import_next():
            return  # the one who waits is still there in the next turn
        ends = self._reactor.now() + ACCEPT_BUDGET
        while not self._closed and self._accept() and self._reactor.now() < ends:
            pass

    def _accept(self) -> bool:
        """Let one more in. False when nobody waits, or can be taken."""
        try:
            sock, _address = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return False
        except OSError as shortage:
            if shortage.errno not in _SHORTAGES:
                raise
            self._pause()
            return False
        self._admit(sock)
        return True

    def _admit(self, sock: socket.socket) -> None:
        peer = access.peer_of(sock)
        granted = self._permit(peer)
        if granted is Access.NONE:
            text = f"user {peer.uid} may not control this instance; its own user and root may"
            self._refuse(sock, error(403, text))
            return
        if _has_left(sock):
            sock.close()
            return
        self._make_place(peer)
        connection = self._connection(sock, granted, self._leave)
        self._clients[connection] = peer
        connection.on_readable()  # most have sent it all while they waited, and need not wait for places to change

    def _make_place(self, peer: Peer) -> None:
        """For one more client of this user, by closing one that has kept us waiting if there is no other way, and
        if nobody has, who has been at it longest: answers can take their time."""
        crowd = [connection for connection, other in self._clients.items() if other.uid == peer.uid]
        if len(crowd) < MAX_OF_A_USER:
            if len(self._clients) < MAX_CLIENTS:
                return
            crowd = list(self._clients)
        min(crowd, key=lambda it: (not it.is_waited_for, it.has_asked, it.since)).close()

    def _leave(self, connection: Connection) -> None:
        self._clients.pop(connection, None)

    def _refuse(self, sock: socket.socket, refusal: Answer) -> None:
        if len(self._refused) >= MAX_REFUSED:
            sock.close()
            return
        connection = self._connection(sock, Access.NONE, self._refused.discard)
        self._refused.add(connection)
        connection.refuse(refusal)

    def _connection(self, sock: socket.socket, granted: Access, on_closed: Callable[[Connection], None]) -> Connection:
        def respond(request: Request) -> Reply:
            return self._respond(request, granted)

        return Connection(sock, self._lane, respond, self._feed.follow, on_closed)

    def _pause(self) -> None:
        """The listener stays readable while descriptors are short: without a pause the loop would spin on it."""
        self._reactor.remove_reader(self._listener.fileno())
        self._reactor.call_later(SHORTAGE_PAUSE, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._reactor.add_reader(self._listener.fileno(), self._on_connection)


def _has_left(sock: socket.socket) -> bool:
    """Whether a client has gone without a word while it waited: the cheapest are the most."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
