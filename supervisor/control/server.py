"""The control API's server: accepts, checks who calls, and hands each client a `Connection`.

Invariant: only a permitted user's request reaches the master, at most MAX_CLIENTS are served at once, and neither a
crowd nor a shortage of descriptors makes the loop spin. Imported by the master: nothing heavy belongs here.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Callable

from supervisor.control.connection import Connection
from supervisor.control.port import Supervision
from supervisor.control.routes import Answer, Follow, Request, error, route
from supervisor.kernel.reactor import Reactor

MAX_CLIENTS = 64
MAX_REFUSED = 64  # being told so at once; beyond it they are just closed
ACCEPTS_A_TURN = 16
SHORTAGE_PAUSE = 1.0  # seconds without accepting when the kernel has no descriptor or memory left
CLOSE_GRACE = 0.25  # seconds for the last answers to leave

_UCRED = struct.Struct("3i")  # pid, uid, gid; see SO_PEERCRED in unix(7)
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def same_user_or_root(uid: int) -> bool:
    """Who may control this instance by default."""
    return uid in (0, os.geteuid())


class ControlServer:
    """Serves `supervision` on `listener`, a listening unix stream socket that this takes over (not its path)."""

    def __init__(
        self,
        listener: socket.socket,
        reactor: Reactor,
        supervision: Supervision,
        *,
        allow: Callable[[int], bool] = same_user_or_root,
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._reactor = reactor
        self._supervision = supervision
        self._allow = allow
        self._clients: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._answering = 0
        self._closed = False
        reactor.add_reader(listener.fileno(), self._on_connection)

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
        everybody = self._clients | self._refused
        for connection in everybody:
            connection.finish()
        self._flush(everybody)
        for connection in everybody:
            connection.close()

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

    def _respond(self, request: Request) -> Answer | Follow:
        self._answering += 1
        try:
            return route(request, self._supervision)
        finally:
            self._answering -= 1

    def _on_connection(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            if self._closed:
                return
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as shortage:
                if shortage.errno not in _SHORTAGES:
                    raise
                self._pause()
                return
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        _pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if not self._allow(uid):
            self._refuse(sock, error(403, f"user {uid} may not control this instance; its own user and root may"))
        elif len(self._clients) >= MAX_CLIENTS:
            self._refuse(sock, error(503, f"{MAX_CLIENTS} clients are connected already; end one and try again"))
        else:
            self._clients.add(self._connection(sock, self._clients))

    def _refuse(self, sock: socket.socket, refusal: Answer) -> None:
        if len(self._refused) >= MAX_REFUSED:
            sock.close()
            return
        connection = self._connection(sock, self._refused)
        self._refused.add(connection)
        connection.refuse(refusal)

    def _connection(self, sock: socket.socket, among: set[Connection]) -> Connection:
        return Connection(sock, self._reactor, self._respond, self._supervision.subscribe, among.discard)

    def _pause(self) -> None:
        """The listener stays readable while descriptors are short: without a pause the loop would spin on it."""
        self._reactor.remove_reader(self._listener.fileno())
        self._reactor.call_later(SHORTAGE_PAUSE, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._reactor.add_reader(self._listener.fileno(), self._on_connection)
