"""The master: opens what must be owned once, starts the apps, and turns signals into what the contract says.

Invariants:
- What it opens it closes, and what it starts it ends, in every way out but its own death by SIGKILL.
- A mistake in the settings, the network or an app never ends it once it serves; an error of its own is logged with
  its traceback, and it goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Sequence

from supervisor import __version__
from supervisor.config.load import Source, load
from supervisor.config.settings import AppSettings, Settings
from supervisor.control.server import ControlServer
from supervisor.errors import SettingsError, SurroundingsError, UserError
from supervisor.kernel.board import ROW_BYTES
from supervisor.kernel.files import read_settings
from supervisor.kernel.instance import Claim, Pidfile, claim, default_control_path, resume_claim
from supervisor.kernel.notify import Notifier, handed_environment, stored_fds
from supervisor.kernel.process import let_signals_in
from supervisor.kernel.reactor import Reactor
from supervisor.master import record
from supervisor.master.admission import admission, warn_of_closed_door
from supervisor.master.adoption import Adoption
from supervisor.master.app import App
from supervisor.master.children import Children
from supervisor.master.estate import Legacy
from supervisor.master.herald import Herald
from supervisor.master.notices import tell_started, warn_of_what_needs_a_new_master
from supervisor.master.snapshot import app_status, leaving_line, serving_line
from supervisor.master.store import SocketStore
from supervisor.master.succession import Successor, instance_key, passed_descriptors, state_of
from supervisor.master.supervision import MAX_WORKERS, Deeds, MasterSupervision
from supervisor.master.upgrade import Upgrade
from supervisor.messages.status import Begun, Status
from supervisor.observe.crash import CrashStore, crash_folder
from supervisor.observe.journal import Journal

SAMPLE_EVERY = 1.0  # seconds
SETTLED_AFTER = 1.0  # seconds from being ready until what a start needs is not needed any more
INTERRUPT_LINGER = 0.2  # seconds: a person waits for the prompt while browsers keep their connections open
REAP_PATIENCE = 3.0  # seconds for killed processes to be reaped at the very end


class Master:
    """One running instance. `run` returns its exit code."""

    def __init__(self, settings: Settings, source: Source | None, reactor: Reactor, journal: Journal) -> None:
        self._settings = settings
        self._source = source
        self._reactor = reactor
        self._journal = journal
        self._children = Children(reactor)
        notifier = Notifier()
        self._herald = Herald(notifier, reactor)
        self.sockets = SocketStore(notifier, stored_fds())
        self._began = reactor.now()
        self._exit_code = 0
        self._is_stopping = False
        self._is_departing = False  # told to stop, and does in a moment
        self._is_ready = False
        self._claim: Claim | None = None
        self._control: ControlServer | None = None
        self._crashes = CrashStore(journal)
        self._apps = {app.name: self._make(app) for app in settings.apps}
        self._legacy = Legacy(self._apps, state_of, reactor, journal)
        self._upgrade = Upgrade(self, self._apps, reactor, self._children, journal)

    def run(self, kept: record.Master | None = None) -> int:
        """Serve until told to stop; with `kept`, go on where an earlier life of this process has been.

        Raises `UserError` when it can't begin; then nothing is left behind.
        """
        with contextlib.ExitStack() as opened:
            self._herald.begin(2 * max(app.settings.boot_timeout for app in self._apps.values()))
            if kept is not None and kept.own is not None:
                self._resume(kept, kept.own, opened)
            else:
                self._begin(opened)
            wanted, control = self._settings.supervisor.crash_dir, self._claim.path if self._claim is not None else ""
            self._crashes.folder = crash_folder(wanted, control, os.environ)
            self._sample()
            self._reactor.run()
        self._herald.close()
        return self._exit_code

    def _make(self, settings: AppSettings) -> App:
        return App(self, settings, self._reactor, self._children, self._journal, self._crashes)

    # What apps tell

    def on_first_start_failed(self, app: App, reason: str) -> None:
        """An app that never served can't be imported: there is nothing to go on with."""
        self._journal.event("app.failed", f"can't start: {reason}", level="error", app=app.name)
        self._herald.stopping(f"{app.name}: can't start: {reason}")
        self._exit_code = 1
        self._is_stopping = True
        app.kill()
        self._reactor.stop()

    def on_app_settled(self, _app: App) -> None:
        self._legacy.touch()
        if self._is_stopping:
            self._herald.stopping(leaving_line(self._apps.values()))
            if all(app.has_left for app in self._apps.values()):
                self._reactor.stop()
            return
        line = serving_line(self._apps.values())
        is_rolling = any(app.state == "rolling" for app in self._apps.values())
        if not self._is_ready and all(app.is_complete for app in self._apps.values()):
            self._is_ready = True
            self._reactor.call_later(SETTLED_AFTER, _settle)
            self._journal.event("log", f"ready: {line}")
        self._herald.tell(line, is_ready=self._is_ready, is_rolling=is_rolling)

    # Beginning

    def _begin(self, opened: contextlib.ExitStack) -> None:
        opened.callback(self._end_everything)
        self._watch_signals()
        self._claim_control(opened)
        adoption = self._adopt()
        fresh = [app for app in self._apps.values() if app.name not in adoption.kept]
        for app in fresh:
            app.open(app.settings)
        self.sockets.drop_unclaimed()
        self._write_pidfile(opened)
        tell_started(self._journal, self._claim.path if self._claim is not None else None, self._apps.values())
        self._leave_behind()
        adoption.go_on(self._apps, {app.name: app for app in self._settings.apps})
        for app in fresh:
            app.start()

    def _adopt(self) -> Adoption:
        """What a master that was killed has left, if there is anything."""
        adoption = Adoption(self._successor(), self._journal)
        if self._claim is not None:
            adoption.find(self._claim.path)
            adoption.take(self._apps, self._make)
        return adoption

    def _successor(self) -> Successor:
        control = self._claim.path if self._claim is not None else ""
        grace = self._settings.supervisor.orphan_grace
        return Successor(self._reactor, self._children, self._journal, control=control, grace=grace)

    def _leave_behind(self) -> None:
        if self._claim is not None:
            self._legacy.open(self._claim.path, self._settings.supervisor.orphan_grace)

    def _resume(self, kept: record.Master, own: record.Own, opened: contextlib.ExitStack) -> None:
        """If this fails, the workers are left to themselves, and not ended with us."""
        self._watch_signals()
        self._began, self._is_ready = own.began, own.is_ready
        claimed = None
        if own.clients is not None:
            self._claim = claimed = resume_claim(
                own.clients.path, own.clients.lock, own.clients.listener, own.clients.inode
            )
        successor = self._successor()
        for app in kept.apps:
            successor.take(self._apps[app.settings.name], app)
        opened.callback(self._end_everything)
        if claimed is not None and own.clients is not None:
            self._serve_control(claimed, opened)
            assert self._control is not None
            self._control.take([socket.socket(fileno=fd) for fd in own.clients.idle])
        if own.pidfile is not None:
            opened.callback(Pidfile(own.pidfile).remove)
        for app in kept.apps:
            successor.go_on(self._apps[app.settings.name], app)
        self._leave_behind()
        self._children.reap_strangers()
        if own.upgrade is not None:
            self._upgrade.resume(own.upgrade)
        self._reactor.call_later(SETTLED_AFTER, _settle)

    def _claim_control(self, opened: contextlib.ExitStack) -> None:
        wanted = self._settings.supervisor.control
        try:
            path = wanted or default_control_path(instance_key(self._source, self._settings))
        except SurroundingsError as error:
            self._journal.event("log", f"no control socket, holdfastctl can't be used: {error}", level="warning")
            return
        group, _permit = admission(self._settings.supervisor.control_group)
        try:
            owned = claim(path, group)
        except SurroundingsError as error:
            if wanted is not None or "another holdfast" in str(error):
                raise
            self._journal.event("log", f"no control socket, holdfastctl can't be used: {error}", level="warning")
            return
        self._serve_control(owned, opened)

    def _serve_control(self, owned: Claim, opened: contextlib.ExitStack) -> None:
        opened.callback(owned.release)
        self._claim = owned
        group = self._settings.supervisor.control_group
        warn_of_closed_door(group, owned.path, self._journal)
        deeds = Deeds(self._status, self._reload, self._stop, self._upgrade, self._crashes)
        supervision = MasterSupervision(self._apps, self._journal, self._reactor.pace, deeds)
        _group, permit = admission(group)
        self._control = ControlServer(owned.listener.sock, self._reactor, supervision, permit=permit)
        opened.callback(self._control.close)

    def _write_pidfile(self, opened: contextlib.ExitStack) -> None:
        path = self._settings.supervisor.pidfile
        if path is not None:
            pidfile = Pidfile(path)
            pidfile.write()
            opened.callback(pidfile.remove)

    def _watch_signals(self) -> None:
        on_signal = self._reactor.on_signal
        on_signal(signal.SIGCHLD, self._children.reap_strangers)
        on_signal(signal.SIGTERM, self._terminated)
        on_signal(signal.SIGINT, self._interrupted)
        on_signal(signal.SIGQUIT, self._stop_at_once)
        on_signal(signal.SIGHUP, lambda: self._reload_by_signal("SIGHUP"))
        on_signal(signal.SIGUSR2, lambda: self._reload_by_signal("SIGUSR2"))
        on_signal(signal.SIGUSR1, self._reopen_logs)
        on_signal(signal.SIGTTIN, lambda: self._scale_all(1))
        on_signal(signal.SIGTTOU, lambda: self._scale_all(-1))
        let_signals_in()  # those held back across an exec

    # Upgrading

    @property
    def why_not_upgradable(self) -> str:
        """Why an upgrade can't be, now or later; empty if it can."""
        if self._is_stopping or self._is_departing:
            return "holdfast is stopping"
        return "" if self._source is not None else "this master is part of another program, which would have to go on"

    @property
    def control(self) -> ControlServer | None:
        """The control API's server, if there is one."""
        return self._control

    def state(self) -> record.Master:
        """All that our next life has to know, but for the clients of the control socket."""
        assert self._source is not None
        clients = None
        if self._claim is not None:
            listener = self._claim.listener
            clients = record.Clients(
                path=self._claim.path, listener=listener.fileno(), lock=self._claim.lock, inode=listener.inode
            )
        own = record.Own(
            source=self._source,
            supervisor=self._settings.supervisor,
            began=self._began,
            is_ready=self._is_ready,
            clients=clients,
            pidfile=self._settings.supervisor.pidfile,
            events=tuple(self._journal.recent()),
            unwritten=self._journal.unwritten(),
            passed=passed_descriptors(app.settings for app in self._apps.values()),
            environment={**handed_environment(), **self._herald.environment},
            upgrade=self._upgrade.status,
        )
        apps = tuple(state_of(app) for app in self._apps.values())
        return record.Master(holdfast=__version__, pid=os.getpid(), apps=apps, row_bytes=ROW_BYTES, own=own)

    # While it serves

    def _sample(self) -> None:
        now = self._reactor.now()
        self._children.look()
        for app in self._apps.values():
            app.watch.sample(now)
        self._reactor.call_at(now + SAMPLE_EVERY, self._sample)

    def _status(self) -> Status:
        now = self._reactor.now()
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_s=round(now - self._began, 3),
            state="stopping" if self._is_stopping else "running",
            apps={name: app_status(app, now) for name, app in self._apps.items()},
        )

    def _reload(self, names: Sequence[str]) -> dict[str, Begun]:
        """Roll these apps (none named: all that are not stopped) to new code and newly read settings: all, or none."""
        settings = self._read_settings()
        found = {app.name: app for app in settings.apps}
        chosen = [app for app in self._apps.values() if (app.name in names if names else not app.is_stopping)]
        missing = [app.name for app in chosen if app.name not in found]
        if missing:
            raise SettingsError(self._source.path or "" if self._source else "", f"[app.{missing[0]}]", "is missing")
        try:
            for app in chosen:
                app.open(found[app.name])
        except UserError:
            for app in chosen:
                app.close_unused()
            raise
        warn_of_what_needs_a_new_master(self._journal, self._settings, settings)
        for app in chosen:
            if keys := app.listeners.unheeded(found[app.name]):
                text = f"changed, and not taken by sockets that stay open: {', '.join(keys)}; stop and start the app"
                self._journal.event("log", text, level="warning", app=app.name)
        return {app.name: app.reload(found[app.name]) for app in chosen}

    def _read_settings(self) -> Settings:
        if self._source is None:
            return self._settings
        return load(self._source, read_settings(self._source.path))

    def _reload_by_signal(self, name: str) -> None:
        if self._is_stopping:
            return
        try:
            self._reload(())
        except UserError as error:
            text = f"{name}: not reloaded, all serves on as before: {error}"
            self._journal.event("log", text, level="error")

    def _reopen_logs(self) -> None:
        self._legacy.touch()
        for app in self._apps.values():
            try:
                app.reopen_logs()
            except SurroundingsError as error:
                self._journal.event("log", f"{error}; the old file is still in use", level="error", app=app.name)

    def _scale_all(self, by: int) -> None:
        for app in self._apps.values():
            if not app.is_stopping and 1 <= app.count + by <= MAX_WORKERS:
                app.watch.scaler.hold()
                app.scale(app.count + by, "SIGTTIN" if by > 0 else "SIGTTOU")

    # Ending

    def _terminated(self) -> None:
        """Once the delay is over, or told again, stop."""
        delay = self._settings.supervisor.stop_delay
        if self._is_departing or self._is_stopping or not delay:
            self._stop("SIGTERM")
            return
        self._is_departing = True
        text = f"SIGTERM: takes connections for another {delay:g} s (stop_delay), then stops"
        self._journal.event("log", text, pid=os.getpid())
        self._reactor.call_later(delay, lambda: self._stop("SIGTERM"))

    def _interrupted(self) -> None:
        if self._is_stopping:
            self._stop_at_once()
        else:
            for app in self._apps.values():
                app.longest_linger = INTERRUPT_LINGER
            self._stop("SIGINT; press Ctrl-C once more to stop at once")

    def _stop(self, why: str) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        self.sockets.leave()
        self._herald.stopping(leaving_line(self._apps.values()))
        self._journal.event("master.stopping", f"stopping gracefully: {why}", pid=os.getpid())
        for app in self._apps.values():
            app.stop()
        if all(app.has_left for app in self._apps.values()):
            self._reactor.stop()

    def _stop_at_once(self) -> None:
        self._is_stopping = True
        self._journal.event("master.stopping", "stopping at once", level="warning", pid=os.getpid())
        self._reactor.stop()

    def _end_everything(self) -> None:
        """Kill and reap whatever is left of our processes."""
        self.sockets.leave()
        self._is_stopping = True
        for app in self._apps.values():
            app.kill()
        self._children.kill_all()
        self._reactor.call_later(REAP_PATIENCE, self._reactor.stop)
        if not self._children.is_empty():
            self._children.on_empty = self._reactor.stop
            self._reactor.run()
        for app in self._apps.values():
            app.close()
        self._legacy.close()


def _settle() -> None:
    with contextlib.suppress(OSError):  # no descriptors left: what it would gain is not missed
        from supervisor.kernel.memory import settle  # and ctypes with it: not before there is more to gain

        settle()
