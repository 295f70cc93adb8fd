"""A new master takes over from one that was killed: finds what it has left, and goes on with it.

Invariants:
- What can't be known is not made up: who is adopted is no child of ours, and its exit status is another's to know.
- Nobody is adopted but the very process of the record (pid and start time), and nothing is asked of an app's processes
  but the vault: who runs and what to do with them is in the file, which only our own user can write.
- A roll that was under way is given up: its watch has died with its master.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from supervisor.config.settings import AppSettings
from supervisor.errors import ProtocolError, SurroundingsError, UserError
from supervisor.kernel import procfs
from supervisor.kernel.board import Cell, WorkerState
from supervisor.kernel.process import open_pidfd, send_signal
from supervisor.kernel.rendezvous import ask
from supervisor.kernel.vault import Vault
from supervisor.master import record
from supervisor.master.access import STDOUT
from supervisor.master.app import App
from supervisor.master.place import Place, find_place
from supervisor.master.succession import Successor
from supervisor.messages.state import NO_FD
from supervisor.messages.wire import Adopted, Ready
from supervisor.observe.journal import Journal
from supervisor.reload import records as rolls

ANSWER_TIMEOUT = 10.0  # seconds for one of the orphans to answer
END_TIMEOUT = 3.0  # seconds for those who don't answer to be gone
MAX_STATE = 64 * 1024 * 1024  # bytes
KILLED = "the master was killed during the roll"


class Adoption:
    """`find`, then `take`, then `go_on`. `kept` are the apps that were found, by name."""

    def __init__(self, successor: Successor, journal: Journal) -> None:
        self._successor = successor
        self._journal = journal
        self._predecessor = 0
        self.kept: dict[str, record.App] = {}

    def find(self, control: str) -> None:
        """Look for those that a master at this control path has left. Raises `SurroundingsError`: they can't be had."""
        data = _read(f"{control}.state")
        if data is None:
            return
        try:
            left = record.decode(data)
        except ProtocolError as error:
            if _are_there(control):
                raise SurroundingsError(f"the workers of a killed master can't be adopted: {error}") from None
            return
        self._predecessor = left.pid
        for app in left.apps:
            if (found := _collect(app)) is not None:
                self.kept[app.settings.name] = found
            else:
                _await_end(app)

    def take(self, apps: dict[str, App], make: Callable[[AppSettings], App]) -> None:
        """Have the apps take over what is theirs; one that is not in the settings any more is made."""
        for name, kept in self.kept.items():
            app = apps.setdefault(name, apps.get(name) or make(kept.settings))
            kept = self.kept[name] = _prepared(kept)
            app.settings = kept.settings
            self._successor.take(app, kept)

    def go_on(self, apps: Mapping[str, App], wanted: Mapping[str, AppSettings]) -> None:
        """Watch them, tell them of us, and have them be as the settings want them."""
        us = Adopted(os.getpid(), procfs.start_ticks(os.getpid()) or 0)
        for name, kept in self.kept.items():
            app = apps[name]
            self._successor.go_on(app, kept)
            app.releases.adopted(us)
            for worker in list(app.workers.values()):
                worker.adopted(us)
            _admit(app)
            self._tell(app)
            _give_up_roll(app)
            self._renew_log(app)
            self._follow(app, wanted.get(name))

    def _follow(self, app: App, settings: AppSettings | None) -> None:
        """What has changed in the settings meanwhile is rolled to, as by a reload."""
        if settings is None:
            app.news.unlisted()
            app.stop()
        elif app.is_stopping:
            app.start_once_stopped()
        elif settings != app.settings:
            try:
                app.open(settings)
                app.reload(settings)
            except UserError as error:
                text = f"not reloaded, all serves on as before: {error}"
                self._journal.event("log", text, level="error", app=app.name)

    def _tell(self, app: App) -> None:
        workers = [worker.pid for worker in app.workers.values() if worker.pid]
        crowd = f"{len(workers)} worker{'s' * (len(workers) != 1)} (pid {', '.join(map(str, workers)) or '-'})"
        text = f"adopted from the master that was killed (pid {self._predecessor}): {crowd}; exit statuses unknown"
        before: dict[str, Any] = {"predecessor": self._predecessor, "workers": workers}
        self._journal.event("master.adopted", text, app=app.name, pid=os.getpid(), generation=app.generation, **before)

    def _renew_log(self, app: App) -> None:
        """An access log on stdout is on ours now."""
        if app.settings.access_log == STDOUT:
            try:
                app.access.ensure(STDOUT)
                app.reopen_logs()
            except UserError as error:
                self._journal.event("log", str(error), level="error", app=app.name)


def _read(path: str) -> bytes | None:
    """The file, if there is one that only our own user can have written."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise SurroundingsError(f"{path}: a file of ours was expected, that others can't write to")
            return file.read(MAX_STATE)
    except OSError:
        return None


def _are_there(control: str) -> bool:
    """Somebody answers at the first app's place."""
    try:
        fd = ask(f"{control}.0", ANSWER_TIMEOUT)
    except SurroundingsError:
        return True
    if fd is not None:
        os.close(fd)
    return fd is not None


def _collect(app: record.App) -> record.App | None:
    """The app's part with descriptors of ours, from the vault of those who are left; None when nobody is."""
    if app.estate is None or (take := ask(app.estate.path, ANSWER_TIMEOUT)) is None:
        return None
    found = Vault(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), socket.socket(fileno=os.dup(take)))
    by_token = found.look()
    found.close()
    fds = {fd: by_token.pop(token) for fd, token in app.estate.tokens.items() if token in by_token}
    for fd in by_token.values():
        os.close(fd)
    needed = {app.board, app.relay.give, app.relay.take, app.estate.give, app.estate.meeting, app.estate.roll_call}
    if not needed <= fds.keys():
        raise SurroundingsError(f"{app.estate.path}: what the former master has left is not whole; end its processes")
    return record.translated(app, fds, take)


def _await_end(app: record.App) -> None:
    """Nobody answers any more: who is just about to end holds the listening sockets until then."""
    spawners = [each.spawner for each in app.releases if each.spawner is not None]
    crowd = [(each.pid, each.started) for each in app.workers if each.pid]
    crowd += [(each.pid, each.started) for each in spawners]
    deadline = time.monotonic() + END_TIMEOUT
    while any(procfs.start_ticks(pid) == started for pid, started in crowd) and time.monotonic() < deadline:
        time.sleep(0.01)


def _prepared(kept: record.App) -> record.App:
    """Without what can't go on: forks under way are looked for, imports under way begin anew."""
    start = [_prepared_release(each) for each in kept.releases]
    access = {path: fd for path, fd in kept.access.items() if path != STDOUT}
    listeners = tuple(each for each in kept.listeners if each.fd != NO_FD)
    return replace(kept, releases=tuple(start), access=access, listeners=listeners)


def _prepared_release(kept: record.Release) -> record.Release:
    kept = replace(kept, place=_with_secrets(kept.settings, kept.place), deadline=None, retry_at=None)
    spawner = kept.spawner
    if spawner is None:
        return kept
    if spawner.has_imported and spawner.channel != NO_FD:
        return replace(kept, spawner=replace(spawner, pending=()))
    _end(spawner.pid, spawner.started)
    return replace(kept, spawner=None)


def _with_secrets(settings: AppSettings, place: Place) -> Place:
    try:
        return replace(place, secrets=find_place(settings, place.home).secrets)
    except UserError:
        return place  # told when it is needed


def _end(pid: int, started: int) -> None:
    with contextlib.suppress(OSError):
        pidfd = open_pidfd(pid)
        if procfs.start_ticks(pid) == started:
            send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


def _give_up_roll(app: App) -> None:
    roll = app.engine.roll
    if roll.phase is rolls.Phase.PRELOADING:
        app.engine.post(rolls.PreloadFailed(roll.target, KILLED))
    elif roll.is_under_way and roll.phase is not rolls.Phase.ROLLING_BACK:
        app.engine.post(rolls.Failed(0, roll.target, KILLED))


def _admit(app: App) -> None:
    """Who is ready by the board, and has told our predecessor in its last moments, will not say so again."""
    for worker in list(app.workers.values()):
        state = worker.row[Cell.STATE]
        if worker.pid and not worker.is_admitted and state in (WorkerState.READY, WorkerState.SATURATED):
            interface = worker.interface or app.releases[worker.generation].settings.interface or "asgi"
            app.on_worker_message(worker, Ready(interface))
