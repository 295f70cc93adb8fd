"""An app's listening sockets, open from its start to its stop whatever becomes of its workers.

Invariant: a socket that stays among the addresses is never closed and opened again, so no connection waiting in its
queue is lost to a roll.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from supervisor.config.settings import AppSettings
from supervisor.errors import SurroundingsError
from supervisor.kernel.address import Fd, Systemd, Unix, parse_address
from supervisor.kernel.sockets import Listener, adopt_fd, adopt_systemd, find_owner, open_tcp, open_unix
from supervisor.master import record


class Listeners:
    """Open sockets by the address they were asked for."""

    def __init__(self) -> None:
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
                    opened[address] = _open(address, settings)
        except SurroundingsError:
            for listener in opened.values():
                listener.close()
            raise
        self._open |= opened
        self._terms |= {address: _terms(address, settings) for address in opened}

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

    def unheeded(self, settings: AppSettings) -> list[str]:
        """The keys of these settings that differ from what a socket which stays open was opened with."""
        staying = [
            (self._terms[address], _terms(address, settings)) for address in settings.bind if address in self._open
        ]
        return sorted({key for ours, theirs in staying for key in ours if ours[key] != theirs[key]})

    def keep_only(self, addresses: Sequence[str]) -> list[str]:
        """Close all others; returns where they listened."""
        dropped = [address for address in self._open if address not in addresses]
        closed = [self._open.pop(address) for address in dropped]
        for address in dropped:
            del self._terms[address]
        for listener in closed:
            listener.close()
        return [listener.bound for listener in closed]

    def of(self, addresses: Sequence[str]) -> list[Listener]:
        """The sockets of these addresses, in their order."""
        return [self._open[address] for address in addresses if address in self._open]

    def close(self) -> None:
        self.keep_only(())


def _terms(text: str, settings: AppSettings) -> dict[str, object]:
    """What is set on a socket when it is opened; one that was handed to us keeps what it has."""
    address = parse_address(text)
    if isinstance(address, Unix):
        keys: tuple[str, ...] = ("backlog", "unix_mode", "unix_owner")
    else:
        keys = () if isinstance(address, Fd | Systemd) else ("backlog", "defer_accept")
    return {key: getattr(settings, key) for key in keys}


def _open(text: str, settings: AppSettings) -> Listener:
    address = parse_address(text)
    if isinstance(address, Unix):
        owner = find_owner(settings.unix_owner) if settings.unix_owner else (-1, -1)
        return open_unix(address.path, backlog=settings.backlog, mode=settings.unix_mode, owner=owner)
    if isinstance(address, Fd):
        return adopt_fd(address.number)
    if isinstance(address, Systemd):
        return adopt_systemd(address.name)
    return open_tcp(address.host, address.port, backlog=settings.backlog, defer=settings.defer_accept)
