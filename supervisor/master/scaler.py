"""Carries out what `watch.scale` decides for one app, and keeps out of the way of who scales by hand.

Invariant: what was set by hand stays until the automatic is asked for again, or a roll brings another `workers`.
"""

from __future__ import annotations

from typing import Protocol

from supervisor.config.settings import AppSettings, Span
from supervisor.kernel.board import Cell, WorkerState
from supervisor.kernel.reactor import Reactor
from supervisor.master.engine import Engine
from supervisor.master.vitals import Sampler
from supervisor.master.worker import Worker
from supervisor.watch.scale import Look, Pace, Pulse, Scaling, step

HEARTBEAT = 0.1  # seconds: how far apart a worker's heartbeats are


class ScalerOwner(Protocol):
    """The app that is scaled."""

    settings: AppSettings
    workers: dict[int, Worker]
    engine: Engine
    count: int

    def scale(self, count: int, why: str, pulses: tuple[Pulse, ...] = ()) -> None: ...


class Scaler:
    """`look` is to be called each second, after the sampler's round."""

    def __init__(self, owner: ScalerOwner, reactor: Reactor, sampler: Sampler) -> None:
        self._owner = owner
        self._reactor = reactor
        self._sampler = sampler
        self._scaling = Scaling()
        self.held_for: Span | None = None  # the range whose count was set by hand
        self._begun: dict[int, tuple[float, int]] = {}  # by worker: when it was looked at, and its requests until then

    @property
    def is_automatic(self) -> bool:
        """The count is ours to change."""
        workers = self._owner.settings.workers
        return isinstance(workers, Span) and workers != self.held_for

    def hold(self) -> None:
        """The count is set by hand."""
        workers = self._owner.settings.workers
        self.held_for = workers if isinstance(workers, Span) else None

    def resume(self) -> None:
        """The count is ours again."""
        self.held_for = None
        self._scaling = Scaling()

    def look(self) -> None:
        """Look at the workers, and scale if that is due."""
        owner, workers = self._owner, self._owner.settings.workers
        if not isinstance(workers, Span) or not self.is_automatic:
            self._scaling = Scaling()
            return
        now = self._reactor.now()
        slots = owner.engine.fleet.slots.values()
        is_settled = not owner.engine.roll.is_under_way and all(
            slot.is_settled for slot in slots if slot.want is not None
        )
        look = Look(self._pulses(now), owner.count, workers.least, workers.most, is_settled)
        pace = Pace(owner.settings.grow_after, owner.settings.shrink_after)
        self._scaling, decision = step(self._scaling, look, pace, now)
        if decision is not None:
            owner.scale(decision.count, decision.why, look.pulses)

    def _pulses(self, now: float) -> tuple[Pulse, ...]:
        holders = [slot.holder.id for slot in self._owner.engine.fleet.slots.values() if slot.holder and slot.is_ready]
        serving = [self._owner.workers[number] for number in holders if number in self._owner.workers]
        pulses = tuple(self._pulse(worker, now) for worker in serving)
        self._begun = {worker.number: (now, worker.requests) for worker in serving}
        return pulses

    def _pulse(self, worker: Worker, now: float) -> Pulse:
        settings, row = self._owner.settings, worker.row
        since, before = self._begun.get(worker.number, (worker.began, 0))
        blocked = now - row[Cell.HEARTBEAT_NS] / 1e9 - HEARTBEAT
        room = settings.max_inflight if worker.interface == "asgi" else min(settings.max_inflight, settings.threads)
        return Pulse(
            slot=worker.slot,
            inflight=worker.inflight,
            capacity=room,
            lag=max(blocked, row[Cell.LAG_NS] / 1e9, 0.0),
            cpu=self._sampler.of(worker).cpu_percent / 100,
            rate=(worker.requests - before) / max(now - since, 1e-3),
            is_saturated=row[Cell.STATE] == WorkerState.SATURATED,
        )
