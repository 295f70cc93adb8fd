"""An app's releases: one generation of its code and settings each, with the spawner that forks it.

Invariants:
- While a generation is needed it has a spawner, or one is being started: a dead one is replaced, with growing delays
  when it keeps dying, and none of its workers notices.
- A worker asked for while its spawner still imports waits here, and is forked the moment the import is done. A spawner
  that is killed meanwhile is no fault of the worker's, which waits for the next one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Protocol

from supervisor.config.settings import AppSettings, Span
from supervisor.fleet.backoff import FAILED_AFTER, count, delay
from supervisor.kernel.capacity import available_cpus
from supervisor.kernel.descriptors import have_room
from supervisor.kernel.reactor import Reactor, Timer
from supervisor.master import record
from supervisor.master.place import Place
from supervisor.master.spawner import Spawner
from supervisor.master.worker import Worker
from supervisor.messages.wire import Imported

SHORTAGE_PAUSE = 1.0  # seconds until descriptors are looked for again
DESCRIPTORS = 16  # more than a worker or a spawner takes of the master's while it is made
LONGEST_PAUSE = 3.0  # seconds without a spawner, however often they die: meanwhile no slot can be filled


class ReleaseOwner(Protocol):
    """Who is told how a release's spawner fares."""

    def on_preloaded(self, release: Release, imported: Imported) -> None: ...
    def on_spawner_lost(self, release: Release, reason: str, retry_in: float, *, was_ready: bool) -> None: ...


class Release:
    """One generation. `start` makes a process of it."""

    def __init__(
        self,
        owner: ReleaseOwner,
        reactor: Reactor,
        settings: AppSettings,
        place: Place,
        generation: int,
        make_spawner: Callable[[Release, record.Spawner | None], Spawner],
        send_fork: Callable[[Spawner, Worker], None],
    ) -> None:
        self._owner = owner
        self._reactor = reactor
        self._make_spawner = make_spawner
        self._send_fork = send_fork
        self._waiting: list[Worker] = []
        self._retry: Timer | None = None
        self._deadline: Timer | None = None
        self._failures = 0
        self._ready_at = 0.0
        self._is_preloaded = False
        self._starts = 0  # each one imports what lies there at the time
        self.settings = settings
        self.place = place
        self.generation = generation
        self.spawner: Spawner | None = None
        self.is_retired = False

    @property
    def is_whole(self) -> bool:
        """Its spawner holds the app as it was first imported, and forks it without a look at any file."""
        return self._is_preloaded and self._starts == 1 and self.spawner is not None and self.spawner.is_ready

    def start(self) -> bool:
        """Exec a spawner, unless there is one or one is due later. True when it can fork already."""
        if self.spawner is not None and self.spawner.is_ready:
            return True
        if self.spawner is not None or self._retry is not None or self.is_retired:
            return False
        if not have_room(DESCRIPTORS):
            self._retry = self._reactor.call_later(SHORTAGE_PAUSE, self._start_again)
            return False
        self.spawner = self._make_spawner(self, None)
        self._starts += 1
        self._bound_import(self.spawner, self._reactor.now() + self.settings.boot_timeout)
        return False

    def state(self) -> record.Release:
        """All that a master which goes on with it has to know."""
        return record.Release(
            generation=self.generation,
            settings=self.settings,
            place=self.place,
            spawner=self.spawner.state() if self.spawner is not None else None,
            waiting=tuple(worker.number for worker in self._waiting),
            is_retired=self.is_retired,
            is_preloaded=self._is_preloaded,
            starts=self._starts,
            failures=self._failures,
            ready_at=self._ready_at,
            retry_at=_when(self._retry),
            deadline=_when(self._deadline),
        )

    def resume(self, kept: record.Release) -> None:
        """Go on where an earlier master has been; who waits to be forked comes to `fork` again."""
        self.is_retired, self._is_preloaded = kept.is_retired, kept.is_preloaded
        self._starts, self._failures, self._ready_at = kept.starts, kept.failures, kept.ready_at
        if kept.spawner is not None:
            self.spawner = self._make_spawner(self, kept.spawner)
            if kept.deadline is not None:
                self._bound_import(self.spawner, kept.deadline)
        elif kept.retry_at is not None:
            self._retry = self._reactor.call_at(kept.retry_at, self._start_again)

    def _bound_import(self, spawner: Spawner, deadline: float) -> None:
        late = f"not imported within boot_timeout, {self.settings.boot_timeout:g} s"
        self._deadline = self._reactor.call_at(deadline, lambda: spawner.kill(late))

    def fork(self, worker: Worker) -> None:
        """Fork the worker now, or as soon as the spawner can."""
        if self.spawner is not None and self.spawner.is_ready:
            self._send_fork(self.spawner, worker)
        else:
            self._waiting.append(worker)
            self.start()

    def forget(self, worker: Worker) -> bool:
        """Take back a worker that waits to be forked. False when it does not wait here (any more)."""
        if worker not in self._waiting:
            return False
        self._waiting.remove(worker)
        return True

    def retire(self) -> None:
        """No longer needed: its workers, if any, serve on."""
        self.is_retired = True
        for timer in (self._retry, self._deadline):
            if timer is not None:
                timer.cancel()
        if self.spawner is not None and self.spawner.is_ready:
            self.spawner.retire()
        elif self.spawner is not None:
            self.spawner.kill("no longer wanted")

    def imported(self, imported: Imported) -> None:
        """Its spawner can fork now."""
        assert self.spawner is not None
        self._ready_at = self._reactor.now()
        self._is_preloaded = imported.preloaded
        if self._deadline is not None:
            self._deadline.cancel()
        waiting, self._waiting = self._waiting, []
        self._owner.on_preloaded(self, imported)
        for worker in waiting:
            self._send_fork(self.spawner, worker)

    def spawner_ended(self, reason: str) -> Iterable[Worker]:
        """Returns the workers that waited for it and now must not; plans its successor while it is needed."""
        spawner, self.spawner = self.spawner, None
        was_ready = spawner is not None and spawner.has_imported
        was_refused = spawner is not None and spawner.import_failed
        if self._deadline is not None:
            self._deadline.cancel()
        if not self.is_retired:
            self._failures = count(self._failures, self._reactor.now() - self._ready_at if was_ready else 0.0)
            retry_in = min(LONGEST_PAUSE, delay(self._failures, random.random()))  # noqa: S311  # jitter
            self._retry = self._reactor.call_later(retry_in, self._start_again)
            self._owner.on_spawner_lost(self, reason, retry_in, was_ready=was_ready)
            if not was_refused and self._failures < FAILED_AFTER:
                return ()
        waiting, self._waiting = self._waiting, []
        return waiting

    def _start_again(self) -> None:
        self._retry = None
        self.start()


def _when(timer: Timer | None) -> float | None:
    """When it is due; None when it has run, or will not."""
    return timer.when if timer is not None and timer.callback is not None else None


def wanted_workers(settings: AppSettings, serving: int = 0) -> int:
    """The number of workers these settings ask for, on this machine; of a range the one nearest to those `serving`."""
    if isinstance(settings.workers, Span):
        return min(max(serving, settings.workers.least), settings.workers.most)
    return settings.workers if settings.workers is not None else available_cpus()
