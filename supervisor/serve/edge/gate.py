"""Where fresh connections of trusted peers wait for their PROXY header.

Invariant: each socket leaves by one of two ways: to `admit` with what was told, its stream standing right behind the
header, or closed. It stays no longer than `timeout`. Peers that are not trusted are let through as they are: what they
send is no header, but the beginning of a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable

from supervisor.serve.edge.peers import Trust
from supervisor.serve.edge.proxy import MAX_V2, ProxyError, Told, measure, parse


class Gate:
    """Reads headers. `admit(sock, told)` takes over a socket; `turned_away(wrong)` hears of one that was closed: its
    header was wrong or late, or else its client went."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        trust: Trust,
        admit: Callable[[socket.socket, Told | None], None],
        turned_away: Callable[[bool], None],
    ) -> None:
        self._loop = loop
        self._trust = trust
        self._admit = admit
        self._turned_away = turned_away
        self._waiting: dict[socket.socket, tuple[bytearray, asyncio.TimerHandle]] = {}
        self._has_told = False
        self.is_closed = False

    @property
    def waiting(self) -> int:
        """Connections that have not told yet."""
        return len(self._waiting)

    def take(self, sock: socket.socket, timeout: float) -> None:
        """Wait for the header of a fresh connection for at most `timeout` seconds."""
        if self.is_closed:
            sock.close()
            return
        try:
            host = sock.getpeername()[0] if sock.family != socket.AF_UNIX else None
        except OSError:  # gone already
            sock.close()
            return
        if not self._trust.covers(host):
            self._admit(sock, None)
            return
        timer = self._loop.call_later(timeout, self._fail, sock, "no PROXY header in time")
        self._waiting[sock] = bytearray(), timer
        self._loop.add_reader(sock.fileno(), self._read, sock)
        self._read(sock)

    def close(self) -> None:
        """Give up on all who wait, and wait for nobody any more."""
        self.is_closed = True
        for sock in tuple(self._waiting):
            self._forget(sock)
            sock.close()

    def _read(self, sock: socket.socket) -> None:
        """Take from the socket what belongs to the header, and no byte more."""
        header = self._waiting[sock][0]
        try:
            seen = sock.recv(MAX_V2, socket.MSG_PEEK)
            if not seen:
                self._fail(sock, "")
                return
            length = measure(bytes(header) + seen)
            header += sock.recv(min(length, len(header) + len(seen)) - len(header))
            if len(header) == length:
                told = parse(bytes(header))
                self._forget(sock)
                self._admit(sock, told)
        except BlockingIOError:
            return
        except ProxyError as error:
            self._fail(sock, str(error))
        except OSError:
            self._fail(sock, "")

    def _fail(self, sock: socket.socket, why: str) -> None:
        """Close; the first that was no PROXY header is told, for then somebody has set up one side only."""
        self._forget(sock)
        self._turned_away(bool(why))
        sock.close()
        if why and not self._has_told:
            self._has_told = True
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"holdfast: proxy_protocol is on, and a connection was closed: {why}\n")
                sys.stderr.flush()

    def _forget(self, sock: socket.socket) -> None:
        _, timer = self._waiting.pop(sock)
        timer.cancel()
        self._loop.remove_reader(sock.fileno())
