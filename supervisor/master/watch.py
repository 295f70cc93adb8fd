"""The watch over one app's workers: takes their pulse, asks `supervisor.watch` for verdicts, and has them carried out.

Invariant: it recycles only a slot that is settled, never during a roll, and kills nobody without its `Restraint`.
"""

from __future__ import annotations

from typing import Protocol

from supervisor.config.settings import AppSettings
from supervisor.fleet import records as seats
from supervisor.kernel.reactor import Reactor
from supervisor.master.accounts import Accounts
from supervisor.master.engine import Engine
from supervisor.master.evener import Evener
from supervisor.master.generations import Releases
from supervisor.master.news import News
from supervisor.master.relay import Relay
from supervisor.master.restraint import Restraint
from supervisor.master.scaler import Scaler, ScalerOwner
from supervisor.master.stallnews import StallNews
from supervisor.master.stalls import Stalls
from supervisor.master.surveys import Surveys
from supervisor.master.vitals import Sampler
from supervisor.master.wear import Wear
from supervisor.master.worker import Worker
from supervisor.messages.wire import FromWorker, Recovered, Saturated, Stuck, Surveyed, TurnedAway, Unstuck


class WatchOwner(ScalerOwner, Protocol):
    """The app that is watched."""

    name: str
    settings: AppSettings
    workers: dict[int, Worker]
    engine: Engine
    releases: Releases
    news: News

    def max_memory(self, settings: AppSettings) -> int | None: ...

    accounts: Accounts
    relay: Relay
    is_stopping: bool

    def recycle(self, slot: int, why: str, *, insist: bool = False) -> None: ...


class Watch:
    """`sample` is to be called each second; `may_kill` before a worker is killed for how it fares."""

    def __init__(self, owner: WatchOwner, reactor: Reactor, stall_news: StallNews) -> None:
        self._owner = owner
        self.sampler = Sampler()
        self.wear = Wear(owner, self.sampler)
        self.restraint = Restraint(reactor, owner.news)
        self.scaler = Scaler(owner, reactor, self.sampler)
        self.surveys = Surveys(reactor)
        self.stalls = Stalls(owner, reactor, stall_news, self.may_kill)
        self.evener = Evener(owner, reactor)

    def begin(self) -> None:
        """There are workers."""
        self.stalls.begin()
        self.evener.begin()

    def sample(self, now: float) -> None:
        """Take everybody's pulse, recycle who has used itself up, and have as many as are needed."""
        workers = list(self._owner.workers.values())  # the one that has served longest is the first to go
        self.sampler.sample(workers, now)
        self._recover()
        settled = []
        for worker in workers:
            worker.remember(now, self.sampler.of(worker).rss_bytes)
            self._owner.news.dropped(worker, *worker.newly_dropped())
            slot = self._served_by(worker)
            if slot is not None and slot.is_settled and not self._owner.engine.roll.is_under_way:
                settled.append((slot.number, worker))
        self.wear.look(settled, now)
        self.scaler.look()
        self.wear.look_for_leaks(workers, now)

    def hear(self, worker: Worker, message: FromWorker) -> None:
        """What a worker tells of how it fares, and of what it holds."""
        if isinstance(message, Saturated):
            self._owner.news.saturated(worker, message.why)
        elif isinstance(message, Recovered):
            self._owner.news.recovered(worker, message.seconds, message.why)
        elif isinstance(message, TurnedAway):
            self._owner.news.turned_away(worker, message.requests, message.seconds)
        elif isinstance(message, Stuck):
            self.stalls.on_stuck(worker, message)
        elif isinstance(message, Unstuck):
            self.stalls.on_unstuck(worker, message)
        elif isinstance(message, Surveyed):
            self.surveys.answered(worker, message.heap)

    def may_kill(self, worker: Worker, why: str) -> bool:
        """Whether `worker` may be killed for `why`. A kill that is granted counts as done; one that is refused has
        been warned of, and leaves the app degraded."""
        granted = self.restraint.may_kill(worker, why, self._owner.settings.max_restarts)
        if not granted:
            self._owner.engine.post()  # no news for the machines, but the app's state is another
        return granted

    def _recover(self) -> None:
        if self.restraint.is_degraded:
            self.restraint.look(self._owner.settings.max_restarts)
            self._owner.engine.post()

    def _served_by(self, worker: Worker) -> seats.Slot | None:
        """The slot that it holds."""
        slot = self._owner.engine.fleet.slots.get(worker.slot)
        return slot if slot is not None and slot.holder is not None and slot.holder.id == worker.number else None
