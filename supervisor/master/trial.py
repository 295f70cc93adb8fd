"""A release that is being rolled to, watched from its canary's first connection to the verdict.

Invariants:
- What is right and wrong is decided by `watch.canary` alone; here the looks are gathered, and the time is kept.
- While the canary is alone it is told again and again how many connections it may take, so that it stays within its
  share however fast it answers.
- A worker passes only by its own word: at the end of the bake it is asked whether it is still ready, and one whose
  event loop does not turn any more can't answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from supervisor.config.settings import AppSettings
from supervisor.kernel import procfs
from supervisor.kernel.board import Cell
from supervisor.kernel.reactor import Reactor, Timer
from supervisor.master.accounts import Accounts
from supervisor.master.engine import Engine
from supervisor.master.news import News
from supervisor.master.relay import Relay
from supervisor.master.worker import Worker
from supervisor.reload import records as rolls
from supervisor.watch.canary import HEAD_START, Look, Pulse, allowance, verdict
from supervisor.watch.evidence import Answers

LOOK_EVERY = 0.05  # seconds; each of a canary's first errors is looked at at once
PROBE_TIMEOUT = 5.0  # seconds for a worker that has baked to say that it is ready


class TrialOwner(Protocol):
    """The app whose release it is; its engine is told what the watch has found."""

    workers: dict[int, Worker]
    accounts: Accounts
    engine: Engine
    news: News
    relay: Relay

    def max_memory(self, settings: AppSettings) -> int | None: ...


class Trial:
    """Idle until `begin`; looks until `end`."""

    def __init__(self, owner: TrialOwner, reactor: Reactor) -> None:
        self._owner = owner
        self._reactor = reactor
        self._timer: Timer | None = None
        self._probe_timer: Timer | None = None
        self._settings: AppSettings
        self._bake = rolls.Bake(0, None, 0.0)
        self._base = 0
        self._share = 0.5
        self._ends: float | None = None
        self._earlier = Answers()  # of the old release, before the watch began
        self._new_before = Answers()  # of the new release, if it has served before
        self._requests_before = 0  # of the old release

    def begin(self, bake: rolls.Bake, base: int, settings: AppSettings) -> None:
        """Watch this generation from now on (or go on with it), and tell when `bake` is over."""
        if self._timer is None or bake.generation != self._bake.generation or bake.slot is not None:
            old = self._owner.accounts.of(base, self._owner.workers.values())
            self._earlier, self._requests_before = old.answers, old.requests
            new = self._owner.accounts.of(bake.generation, self._owner.workers.values())
            self._new_before = new.answers
        self._cancel()
        self._bake, self._base, self._settings = bake, base, settings
        self._share = settings.canary_share or 1 / (1 + max(1, len(self._ready(base))))
        self._ends = self._reactor.now() + bake.seconds
        if (canary := self._canary()) is not None and bake.seconds:
            self._owner.relay.lend(canary, self._share, self._owner.workers)
        self._look_and_wait()

    def end(self) -> None:
        """Nobody asks any more."""
        self._cancel()

    def admit(self, worker: Worker) -> None:
        """A canary that is ready: its first connections, before the first look."""
        worker.allow(HEAD_START)

    def probed(self, worker: Worker, status: int | None) -> None:
        """What a worker has answered to being asked whether it is ready."""
        if self._probe_timer is None or not self._is_canary(worker):
            return
        self._probe_timer.cancel()
        self._probe_timer = None
        if status is None or 0 < status < 400:
            worker.allow(None)
            self._pass()
        else:
            answer = f"answers {status}" if status else "does not answer"
            self._fail(worker, f"ready_path {self._settings.ready_path} {answer} at the end of the bake")

    def look(self) -> None:
        """Look now; nothing when nobody is watched."""
        if self._timer is None:
            return
        look = self._gather()
        is_wsgi = any(worker.interface == "wsgi" for worker in self._ready(self._bake.generation).values())
        reason = verdict(
            look, self._owner.max_memory(self._settings), owns_loop=not (is_wsgi and self._settings.threads == 1)
        )
        if reason is not None:
            self._fail(self._canary(), reason)
        elif self._bake.slot is not None:
            self._keep_to_share()

    def _look_and_wait(self) -> None:
        self._timer = self._reactor.call_later(LOOK_EVERY, self._look_and_wait)
        self.look()
        if self._timer is not None and self._ends is not None and self._reactor.now() >= self._ends:
            self._ends = None
            self._end_of_bake()

    def _end_of_bake(self) -> None:
        canary = self._canary()
        if canary is None:
            self._pass()
            return
        late = f"does not answer within {PROBE_TIMEOUT:g} s whether it is still ready"
        self._probe_timer = self._reactor.call_later(PROBE_TIMEOUT, lambda: self._fail(canary, late))
        canary.probe()

    def _gather(self) -> Look:
        accounts, workers = self._owner.accounts, self._owner.workers.values()
        lags = [worker.row[Cell.LAG_MAX_NS] / 1e9 for worker in self._ready(self._base).values()]
        pulses = (
            Pulse(worker.slot, worker.blocked, procfs.rss_bytes(worker.pid) or 0)
            for worker in self._ready(self._bake.generation).values()
        )
        return Look(
            pulses=tuple(pulses),
            new=accounts.of(self._bake.generation, workers).answers - self._new_before,
            old=accounts.of(self._base, workers).answers - self._earlier,
            earlier=self._earlier,
            usual_block=min(lags, default=0.0),
        )

    def _keep_to_share(self) -> None:
        canary = self._canary()
        if canary is not None and self._ends is not None:
            others = self._owner.accounts.of(self._base, self._owner.workers.values()).requests - self._requests_before
            canary.allow(allowance(self._share, canary.row[Cell.ACCEPTED], canary.requests, others))

    def _ready(self, generation: int) -> Mapping[int, Worker]:
        """The generation's workers that serve and are to go on with it."""
        return {
            number: worker
            for number, worker in self._owner.workers.items()
            if worker.generation == generation and worker.is_admitted and not worker.is_leaving
        }

    def _canary(self) -> Worker | None:
        return next((worker for worker in self._owner.workers.values() if self._is_canary(worker)), None)

    def _is_canary(self, worker: Worker) -> bool:
        return worker.generation == self._bake.generation and worker.slot == self._bake.slot and not worker.is_leaving

    def _pass(self) -> None:
        self._owner.relay.end_trial(self._owner.engine.fleet, self._owner.workers)
        self._owner.engine.post(rolls.Baked(self._bake.generation, self._bake.slot))

    def _fail(self, worker: Worker | None, reason: str) -> None:
        """Go back, with what the worker has last complained of."""
        self._cancel()
        if worker is not None:
            worker.pipes.drain()
            self._owner.news.failure_output = worker.pipes.last_errors()
        slot = worker.slot if worker is not None else 0
        self._owner.engine.post(rolls.Failed(slot, self._bake.generation, reason))

    def _cancel(self) -> None:
        for timer in (self._timer, self._probe_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._probe_timer = self._ends = None
        self._owner.relay.end_trial(self._owner.engine.fleet, self._owner.workers)
