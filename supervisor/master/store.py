"""Listening sockets that the service manager keeps while no master is there: a restart then refuses no connection.

Invariants:
- A socket is in the store while an app listens on it, and whatever ends the master leaves it there; the manager itself
  lets go of it when the service is stopped and not started again.
- What was given back and nobody listens on any more is given up: no client waits in a queue that nobody serves.

Source: sd_notify(3), FDSTORE=1; systemd.service(5), FileDescriptorStoreMax=.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from supervisor.kernel.notify import MAX_NAME, STORED, Notifier


class SocketStore:
    """The master's only one. `given` are the descriptors that the manager has passed, with their names."""

    def __init__(self, notifier: Notifier, given: Sequence[tuple[int, str]]) -> None:
        self._notifier = notifier
        self._given = {name: fd for fd, name in given if name.startswith(STORED)}
        self._kept: set[str] = set()
        self._is_left = False

    def take(self, app: str, address: str) -> int | None:
        """The descriptor that an earlier master has put there for this address of the app; its owner is the caller."""
        return self._given.pop(_name(app, address), None)

    def put(self, app: str, address: str, fd: int) -> None:
        """The app listens there. A socket that the manager holds already is not stored twice."""
        name = _name(app, address)
        if (copy := self._given.pop(name, None)) is not None:
            os.close(copy)
        if self._notifier.is_active and len(name) <= MAX_NAME:
            self._kept.add(name)
            self._notifier.store(name, fd)

    def keeps(self, app: str, address: str) -> bool:
        """Whether the socket outlives us."""
        return self._is_left and _name(app, address) in self._kept

    def drop(self, app: str, address: str) -> None:
        """The app listens there no more."""
        name = _name(app, address)
        if name in self._kept and not self._is_left:
            self._kept.remove(name)
            self._notifier.discard(name)

    def drop_unclaimed(self) -> None:
        """Every app has taken what is its own: the rest is of apps and addresses that are no more."""
        for name, fd in self._given.items():
            self._notifier.discard(name)
            os.close(fd)
        self._given.clear()

    def leave(self) -> None:
        """The master goes; what the apps close from now on stays in the store."""
        self._is_left = True


def _name(app: str, address: str) -> str:
    """What a descriptor's name may be: printable ASCII without a colon. (urllib's quote is 0.5 MB.)"""
    letters = (chr(byte) if 32 < byte < 127 and byte not in b":%" else f"%{byte:02X}" for byte in address.encode())
    return f"{STORED}{app}={''.join(letters)}"
