"""An app's listening sockets, open from its start to its stop whatever becomes of its workers.

Invariant: a socket that stays among the addresses is never closed and opened again, so no connection waiting in its
queue is lost to a roll.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from supervisor.config.settings import AppSettings
from supervisor.errors import SurroundingsError
from supervisor.kernel.address import Fd, Systemd, Tcp, Unix, parse_address
from supervisor.kernel.revival import revive_tcp, revive_unix
from supervisor.kernel.sockets import (
    Listener,
    adopt_fd,
    adopt_systemd,
    find_owner,
    longest_backlog,
    open_tcp,
    open_unix,
)
from supervisor.master import record
from supervisor.master.store import SocketStore
from supervisor.observe.journal import Journal


class Listeners:
    """One app's open sockets by the address they were asked for; `store` outlives the master."""

    def __init__(self, app: str, store: SocketStore) -> None:
        self._app = app
        self._store = store
        self._open: dict[str, Listener] = {}
        self._terms: dict[str, dict[str, object]] = {}  # the settings of the moment of opening, by address

    def ensure(self, settings: AppSettings) -> None:
        """Open what they bind and is not open. Raises `SurroundingsError` and then opens none.

        Backlog, mode and owner are those of the moment of opening: a socket that stays is not touched again.
        """
        opened: dict[str, Listener] = {}
        try:
            for address in settings.bind:
                if address not in self._open and address not in opened:
                    opened[address] = self._open_one(address, settings)
        except SurroundingsError:
            for listener in opened.values():
                listener.close()
            raise
        self._open |= opened
        self._terms |= {address: _terms(address, settings) for address in opened}
        for address in opened:
            self._keep(address)

    def state(self) -> tuple[record.Listener, ...]:
        """All that a master which goes on with them has to know."""
        return tuple(
            record.Listener(
                address=address,
                fd=listener.fileno(),
                inherited=listener.inherited,
                path=listener.path,
                inode=listener.inode,
                terms=self._terms[address],
            )
            for address, listener in self._open.items()
        )

    def resume(self, kept: record.Listener) -> None:
        """Go on with a socket that an earlier master has opened."""
        sock = socket.socket(fileno=kept.fd)
        listener = Listener(kept.address, sock, inherited=kept.inherited, file=(kept.path, kept.inode))
        self._open[kept.address], self._terms[kept.address] = listener, kept.terms
        if (stored := self._store.take(self._app, kept.address)) is not None:
            os.close(stored)  # the same socket
        self._keep(kept.address)

    def unheeded(self, settings: AppSettings) -> list[str]:
        """The keys of these settings that differ from what a socket which stays open was opened with."""
        staying = [
            (self._terms[address], _terms(address, settings)) for address in settings.bind if address in self._open
        ]
        return sorted({key for ours, theirs in staying for key in ours if ours[key] != theirs[key]})

    def keep_only(self, addresses: Sequence[str]) -> list[str]:
        """Close all others; returns where they listened."""
        dropped = [address for address in self._open if address not in addresses]
        closed = [self._close(address) for address in dropped]
        return [listener.bound for listener in closed]

    def of(self, addresses: Sequence[str]) -> list[Listener]:
        """The sockets of these addresses, in their order."""
        return [self._open[address] for address in addresses if address in self._open]

    def close(self) -> None:
        self.keep_only(())

    def _open_one(self, text: str, settings: AppSettings) -> Listener:
        """The socket that an earlier master has left, brought up to these settings, or a new one."""
        stored = self._store.take(self._app, text)
        return (_revive(stored, text, settings) if stored is not None else None) or _open(text, settings)

    def _keep(self, address: str) -> None:
        """Have it outlive us; an inherited one does by itself."""
        if not self._open[address].inherited:
            self._store.put(self._app, address, self._open[address].fileno())

    def _close(self, address: str) -> Listener:
        listener = self._open.pop(address)
        del self._terms[address]
        self._store.drop(self._app, address)
        listener.close(keep_file=self._store.keeps(self._app, address))
        return listener


def warn_of_short_queues(apps: Sequence[AppSettings], journal: Journal) -> None:
    """The kernel cuts a longer backlog down without a word."""
    wanted, allowed = max(app.backlog for app in apps), longest_backlog()
    if allowed is not None and allowed < wanted:
        text = f"backlog {wanted} is cut down to net.core.somaxconn, {allowed}; raise it with sysctl(8)"
        journal.event("log", text, level="warning")


def _terms(text: str, settings: AppSettings) -> dict[str, object]:
    """What is set on a socket when it is opened; one that was handed to us keeps what it has."""
    address = parse_address(text)
    if isinstance(address, Unix):
        keys: tuple[str, ...] = ("backlog", "unix_mode", "unix_owner")
    else:
        keys = () if isinstance(address, Fd | Systemd) else ("backlog", "defer_accept")
    return {key: getattr(settings, key) for key in keys}


def _revive(fd: int, text: str, settings: AppSettings) -> Listener | None:
    address = parse_address(text)
    if isinstance(address, Unix):
        return revive_unix(fd, address.path, settings.backlog, settings.unix_mode, _owner(settings))
    if isinstance(address, Tcp):
        return revive_tcp(fd, text, settings.backlog, settings.defer_accept)
    return None


def _owner(settings: AppSettings) -> tuple[int, int]:
    return find_owner(settings.unix_owner) if settings.unix_owner else (-1, -1)


def _open(text: str, settings: AppSettings) -> Listener:
    address = parse_address(text)
    if isinstance(address, Unix):
        return open_unix(address.path, backlog=settings.backlog, mode=settings.unix_mode, owner=_owner(settings))
    if isinstance(address, Fd):
        return adopt_fd(address.number)
    if isinstance(address, Systemd):
        return adopt_systemd(address.name)
    return open_tcp(address.host, address.port, backlog=settings.backlog, defer=settings.defer_accept)
