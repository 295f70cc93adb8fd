"""What the master leaves behind if it is killed: the record in a file, descriptors in vaults, a place to meet.

Invariants:
- The file and the vaults follow every change that the machines make, within the turn of the loop in which it was made
  or, with thousands of workers, often enough to cost a twentieth of the time at most. What has changed since, the board
  and the channels tell.
- A vault is of one app, and only its processes hold it.
- The file has no secrets in it. It is whole at any time: a new one is moved into the old one's place.
- A disk without room, or no room for descriptors, costs the succession and nothing else, until it is tried again; it
  is told once, and so is its end.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from supervisor import __version__
from supervisor.errors import SurroundingsError
from supervisor.kernel import procfs
from supervisor.kernel.board import ROW_BYTES
from supervisor.kernel.reactor import Reactor, Timer
from supervisor.kernel.rendezvous import open_rendezvous
from supervisor.kernel.sockets import Listener, check_unix_path
from supervisor.kernel.statefile import StateFile
from supervisor.kernel.vault import Vault
from supervisor.master import record
from supervisor.messages import wire
from supervisor.messages.state import NO_FD
from supervisor.observe.journal import Journal

if TYPE_CHECKING:
    from supervisor.master.app import App

CHEAP = 0.005  # seconds of CPU for once: what some hundred workers take
COSTS_AT_MOST = 0.05  # of the time, where once is not cheap
RETRY = 2.0  # seconds until what could not be left is tried again


class Estate:
    """One app's, of the instance at the control path `control`."""

    def __init__(self, control: str, grace: float, vault: Vault, meeting: Listener, roll_call: int) -> None:
        self._control = control
        self._grace = grace
        self.vault = vault
        self.meeting = meeting
        self._roll_call = roll_call

    def terms(self, listeners: list[Listener]) -> wire.Estate:
        """What a new spawner is told, with these listening sockets among what it is left."""
        made = [(each.path, each.inode[1]) for each in (self.meeting, *listeners) if each.inode is not None]
        with contextlib.suppress(OSError):
            made.append((self._control, os.lstat(self._control).st_ino))
        return wire.Estate(
            pid=os.getpid(),
            started=procfs.start_ticks(os.getpid()) or 0,
            uid=os.geteuid(),
            grace=self._grace,
            control=self._control,
            files=tuple(made),
        )

    @property
    def fds(self) -> tuple[int, int, int, int]:
        """What travels with the terms."""
        return self.vault.take.fileno(), self.meeting.fileno(), self._roll_call, 2

    def state(self) -> record.Estate:
        """All that a master which goes on with it has to know."""
        return record.Estate(
            give=self.vault.give.fileno(),
            take=self.vault.take.fileno(),
            meeting=self.meeting.fileno(),
            path=self.meeting.path,
            inode=self.meeting.inode,
            roll_call=self._roll_call,
            tokens=self.vault.tokens,
        )

    @classmethod
    def resumed(cls, control: str, grace: float, kept: record.Estate) -> Estate:
        """An earlier master's."""
        vault = Vault(socket.socket(fileno=kept.give), socket.socket(fileno=kept.take))
        for fd in vault.look().values():
            os.close(fd)  # we have them
        vault.resume({fd: token for fd, token in kept.tokens.items() if fd >= 0})
        os.set_inheritable(kept.roll_call, False)
        meeting = Listener(f"unix:{kept.path}", socket.socket(fileno=kept.meeting), file=(kept.path, kept.inode))
        return cls(control, grace, vault, meeting, kept.roll_call)

    def close(self) -> None:
        """Nothing is left of the app."""
        self.vault.close()
        self.meeting.close()
        os.close(self._roll_call)


class Legacy:
    """All apps' estates, and the record in the file `control`.state. `open` first."""

    def __init__(
        self, apps: Mapping[str, App], state_of: Callable[[App], record.App], reactor: Reactor, journal: Journal
    ) -> None:
        self._apps = apps
        self._state_of = state_of
        self._reactor = reactor
        self._journal = journal
        self._control = ""
        self._written = b""
        self._timer: Timer | None = None
        self._retry: Timer | None = None
        self._not_before = 0.0
        self._is_amiss = False

    def open(self, control: str, grace: float) -> None:
        """Leave an estate to every app's processes, from now on; those that go on with one keep it."""
        if grace <= 0:
            return
        self._control, self._file = control, StateFile(f"{control}.state")
        known = [app.estate for app in self._apps.values() if app.estate is not None]
        taken = {estate.meeting.path for estate in known}
        free = (path for number in range(len(self._apps)) if (path := f"{control}.{number}") not in taken)
        roll_call = os.dup(known[0].fds[2]) if known else os.memfd_create("holdfast-roll-call", os.MFD_CLOEXEC)
        try:
            for app in self._apps.values():
                if app.estate is None:
                    path = next(free)
                    check_unix_path(path)
                    app.estate = Estate(control, grace, Vault.empty(), open_rendezvous(path), os.dup(roll_call))
        except (OSError, SurroundingsError) as error:
            self._failed(str(error))
        finally:
            os.close(roll_call)
        self.write()

    def touch(self) -> None:
        """Something has changed."""
        if self._control and self._timer is None:
            self._timer = self._reactor.call_at(max(self._not_before, self._reactor.now()), self.write)

    def write(self) -> None:
        """Bring vaults and file up to date."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if not self._control:
            return
        began = time.process_time()
        try:
            apps = tuple(self._left(app) for app in self._apps.values() if app.estate is not None)
            data = record.encode(record.Master(holdfast=__version__, pid=os.getpid(), apps=apps, row_bytes=ROW_BYTES))
        except OSError as error:
            self._failed(str(error.strerror))
        else:
            self._keep(data)
        if (cost := time.process_time() - began) > CHEAP:
            self._not_before = self._reactor.now() + cost / COSTS_AT_MOST

    def close(self) -> None:
        """Nobody is left."""
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        if self._control:
            self._file.remove()

    def _left(self, app: App) -> record.App:
        assert app.estate is not None
        kept = self._state_of(app)
        app.estate.vault.keep(set(record.heritage(kept)) - {NO_FD})
        return replace(record.without_secrets(kept), estate=app.estate.state())

    def _keep(self, data: bytes) -> None:
        try:
            if data != self._written:
                self._file.write(data)
                self._written = data
        except OSError as error:
            self._failed(f"{self._file.path} can't be written: {error.strerror}")
            return
        if self._is_amiss and all(app.estate is not None for app in self._apps.values()):
            self._is_amiss = False
            self._journal.event("log", f"{self._file.path} is up to date again: the next master can adopt the workers")

    def _failed(self, why: str) -> None:
        if self._retry is None or self._retry.callback is None:
            self._retry = self._reactor.call_later(RETRY, self.write)
        if not self._is_amiss:
            self._is_amiss = True
            text = f"if the master is killed, the next one may not be able to adopt its workers: {why}"
            self._journal.event("log", text, level="warning")
