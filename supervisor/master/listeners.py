"""An app's listening sockets, open from its start to its stop whatever becomes of its workers.

Invariant: a socket that stays among the addresses is never closed and opened again, so no connection waiting in its
queue is lost to a roll.
"""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.errors import SurroundingsError
from supervisor.kernel.address import Fd, Systemd, Unix, parse_address
from supervisor.kernel.sockets import Listener, adopt_fd, adopt_systemd, open_tcp, open_unix


class Listeners:
    """Open sockets by the address they were asked for."""

    def __init__(self) -> None:
        self._open: dict[str, Listener] = {}

    def ensure(self, addresses: Sequence[str]) -> None:
        """Open those that are not open. Raises `SurroundingsError` and then opens none."""
        opened: dict[str, Listener] = {}
        try:
            for address in addresses:
                if address not in self._open and address not in opened:
                    opened[address] = _open(address)
        except SurroundingsError:
            for listener in opened.values():
                listener.close()
            raise
        self._open |= opened

    def keep_only(self, addresses: Sequence[str]) -> list[str]:
        """Close all others; returns where they listened."""
        dropped = [address for address in self._open if address not in addresses]
        closed = [self._open.pop(address) for address in dropped]
        for listener in closed:
            listener.close()
        return [listener.bound for listener in closed]

    def of(self, addresses: Sequence[str]) -> list[Listener]:
        """The sockets of these addresses, in their order."""
        return [self._open[address] for address in addresses if address in self._open]

    def close(self) -> None:
        self.keep_only(())


def _open(text: str) -> Listener:
    address = parse_address(text)
    if isinstance(address, Unix):
        return open_unix(address.path)
    if isinstance(address, Fd):
        return adopt_fd(address.number)
    if isinstance(address, Systemd):
        return adopt_systemd(address.name)
    return open_tcp(address.host, address.port)
