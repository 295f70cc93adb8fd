"""What the control API may ask of the master: targets and words checked, then done or refused, at once."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from supervisor.config.settings import Span
from supervisor.errors import RefusedError, UserError
from supervisor.kernel.reactor import Pace
from supervisor.master.app import App
from supervisor.master.releases import wanted_workers
from supervisor.master.surveys import OnAnswer
from supervisor.master.upgrade import Upgrade
from supervisor.master.worker import Worker
from supervisor.messages.events import Event
from supervisor.messages.stacks import WorkerStacks
from supervisor.messages.status import Begun, RollStatus, Status, UpgradeStatus
from supervisor.observe.crash import CrashStore
from supervisor.observe.journal import Journal
from supervisor.observe.metrics import crash_reports, exposition, master_lag

MAX_WORKERS = 1024


class Deeds(NamedTuple):
    """What the master does itself."""

    status: Callable[[], Status]
    reload: Callable[[Sequence[str]], dict[str, Begun]]
    stop: Callable[[str], None]
    upgrade: Upgrade
    crashes: CrashStore


class MasterSupervision:
    """Implements `control.port.Supervision`."""

    def __init__(self, apps: dict[str, App], journal: Journal, pace: Pace, deeds: Deeds) -> None:
        self._apps = apps
        self._journal = journal
        self._pace = pace
        self.status = deeds.status
        self._reload = deeds.reload
        self._begin_stop = deeds.stop
        self._upgrade = deeds.upgrade
        self._crashes = deeds.crashes
        self.crashes = deeds.crashes.all
        self.crash = deeds.crashes.read

    def metrics(self) -> Iterator[str]:
        ended = {name: app.accounts.ended(app.workers.values()) for name, app in self._apps.items()}
        rolls = {name: app.rollout.book.totals(app.workers.values()) for name, app in self._apps.items()}
        return itertools.chain(
            exposition(self.status(), ended, rolls),
            master_lag(self._pace.longest, self._pace.busiest),
            [crash_reports(self._crashes.failures)],
        )

    def rollback(self, apps: Sequence[str]) -> dict[str, Begun]:
        chosen = [self._running(name) for name in dict.fromkeys(apps)]
        if not chosen:
            chosen = [app for app in self._apps.values() if not app.is_stopping and app.rollout.can_go_back]
        if not chosen:
            raise RefusedError("no app has a release to return to")
        for app in chosen:
            if (refusal := app.rollout.refusal()) is not None:
                raise RefusedError(refusal)
        try:
            return {app.name: app.rollout.back() for app in chosen}
        except UserError as error:
            raise RefusedError(str(error)) from None

    def rolls(self) -> dict[str, Sequence[RollStatus]]:
        return {name: app.rollout.book.all(list(app.workers.values())) for name, app in self._apps.items()}

    def reload(self, apps: Sequence[str]) -> dict[str, Begun]:
        for name in apps:
            self._running(name)
        if all(app.is_stopping for app in self._apps.values()):
            raise RefusedError("everything is stopped; holdfastctl start all")
        try:
            return self._reload(apps)
        except UserError as error:
            raise RefusedError(f"not reloaded, all serves on as before: {error}") from None

    def start(self, target: str) -> None:
        """A stopped app or slot; of an app that runs, all slots that were stopped by hand."""
        for app, slot in self._targets(target):
            if app.is_idle:
                self._start_app(app, slot)
            elif app.is_stopping:
                app.start_once_stopped()
            elif not (app.held if slot is None else slot in app.held):
                raise RefusedError(f"{target if slot else app.name} is running")
            else:
                for number in sorted(app.held) if slot is None else [slot]:
                    app.release_slot(number)

    def stop(self, target: str) -> None:
        for app, slot in self._targets(target):
            if app.is_stopping:
                raise RefusedError(f"{app.name} is stopped or stopping")
            if slot is None:
                app.stop()
            elif slot in app.held:
                raise RefusedError(f"{app.name}:{slot} is stopped")
            elif app.slots() == (slot,):
                app.stop()  # with nobody left to answer, its sockets must not take connections any more
            else:
                app.hold(slot)

    def restart(self, target: str) -> None:
        for app, slot in self._targets(target):
            if slot is None:
                if app.is_idle:
                    self._start_app(app)
                else:
                    app.stop(and_start=True)
                continue
            found = app.engine.fleet.slots.get(slot)
            if found is None or not found.is_settled:
                raise RefusedError(f"{app.name}:{slot} is not ready, so it is being replaced, or is stopped, already")
            app.recycle(slot, "restarted by hand", insist=True)

    def scale(self, app: str, workers: str) -> int:
        found = self._running(app)
        if workers == "auto":
            return self._scale_by_itself(found)
        digits = workers.removeprefix("+").removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 7):
            raise RefusedError(f"a number of workers such as 4, +1 or -1, or auto, not {workers!r}")
        sign = {"+": 1, "-": -1}.get(workers[0])
        count = int(digits) if sign is None else found.count + sign * int(digits)
        if not 1 <= count <= MAX_WORKERS:
            raise RefusedError(f"{app} can have 1 to {MAX_WORKERS} workers, not {count}")
        found.watch.scaler.hold()
        found.scale(count, "by hand")
        return count

    def signal(self, name: str, target: str) -> list[int]:
        number = _signal_number(name)
        workers = [
            worker
            for app, slot in self._targets(target)
            for worker in list(app.workers.values())
            if slot is None or worker.slot == slot
        ]
        return [worker.pid for worker in workers if worker.signal(number)]

    def upgrade(self) -> UpgradeStatus:
        return self._upgrade.begin()

    def last_upgrade(self) -> UpgradeStatus | None:
        return self._upgrade.status

    def stack(self, target: str, on_answer: Callable[[Sequence[WorkerStacks]], None]) -> None:
        app, _worker = self._worker(target)
        app.watch.stalls.inquire(int(target.rpartition(":")[2]), on_answer)

    def heap(self, target: str, seconds: float, frames: int, on_answer: OnAnswer) -> None:
        app, worker = self._worker(target)
        if not worker.is_admitted or worker.is_leaving:
            raise RefusedError(f"{target} does not serve, it {'leaves' if worker.is_leaving else 'is starting'}")
        app.watch.surveys.ask(worker, seconds, frames, on_answer)

    def shutdown(self) -> None:
        self._begin_stop("shutdown was asked for")

    def recent_events(self) -> Sequence[Event]:
        return self._journal.recent()

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        return self._journal.subscribe(listener)

    @staticmethod
    def _scale_by_itself(app: App) -> int:
        """What was set by hand is over."""
        if not isinstance(app.settings.workers, Span):
            raise RefusedError(f'{app.name} has no range of workers to scale in, such as workers = "2..8"')
        app.watch.scaler.resume()
        if (count := wanted_workers(app.settings, app.count)) != app.count:
            app.scale(count, "by hand, into its range")
        return count

    @staticmethod
    def _start_app(app: App, slot: int | None = None) -> None:
        """Start from a standstill; with `slot`, only that one."""
        try:
            app.open(app.settings)
        except UserError as error:
            raise RefusedError(str(error)) from None
        app.start(only=slot)

    def _targets(self, target: str) -> list[tuple[App, int | None]]:
        """The apps and slots that a target means. Raises `RefusedError` naming what there is."""
        if target == "all":
            return [(app, None) for app in self._apps.values()]
        name, colon, number = target.partition(":")
        app = self._app(name)
        if not colon:
            return [(app, None)]
        slots = sorted(app.engine.fleet.slots)
        if not (number.isascii() and number.isdigit() and len(number) < 7 and int(number) in slots):
            span = f"{name}:{slots[0]} to {name}:{slots[-1]}" if slots else "no workers"
            raise RefusedError(f"there is no worker {target}; {name} has {span}")
        return [(app, int(number))]

    def _worker(self, target: str) -> tuple[App, Worker]:
        """The worker that holds a slot. Raises `RefusedError`."""
        found = self._targets(target)
        app, number = found[0]
        if number is None:
            raise RefusedError(f"one worker, such as {app.name}:1, not {target}")
        holder = app.engine.fleet.slots[number].holder
        worker = app.workers.get(holder.id) if holder is not None else None
        if worker is None or not worker.pid:
            raise RefusedError(f"{target} has no process now")
        return app, worker

    def _running(self, name: str) -> App:
        app = self._app(name)
        if app.is_stopping:
            raise RefusedError(f"{name} is stopped; holdfastctl start {name}")
        return app

    def _app(self, name: str) -> App:
        try:
            return self._apps[name]
        except KeyError:
            raise RefusedError(f"there is no app {name!r}; there is: {', '.join(sorted(self._apps))}") from None


def _signal_number(name: str) -> int:
    """`USR1`, `SIGUSR1`, `usr1` or `10`."""
    if name.isascii() and name.isdigit() and len(name) < 4 and 0 < int(name) < signal.NSIG:
        return int(name)
    try:
        return signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    except KeyError:
        raise RefusedError(f"there is no signal {name!r}; for example TERM, USR1, KILL or 10") from None
