"""An app's state as the frozen records of the contract, taken from what the master knows without asking anybody."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from supervisor.fleet import records as seats
from supervisor.kernel.board import Cell, WorkerState
from supervisor.master.app import App
from supervisor.master.worker import Worker
from supervisor.messages.status import AppStatus, SlotState, WorkerStatus

_STATES: dict[int, SlotState] = {
    WorkerState.STARTING: "starting",
    WorkerState.READY: "ready",
    WorkerState.SATURATED: "saturated",
    WorkerState.DRAINING: "draining",
}


def serving_line(apps: Iterable[App]) -> str:
    """All of it in one line, as `systemctl status` shows it: `web: 4/4 ready, g7; admin: 1/1 ready, g2`."""
    parts = []
    for app in apps:
        ready = sum(1 for slot in app.engine.fleet.slots.values() if slot.is_ready)
        parts.append(f"{app.name}: {ready}/{app.count} ready, g{app.engine.roll.base}")
    return "; ".join(parts)


def leaving_line(apps: Iterable[App]) -> str:
    """The same at a stop."""
    left = sum(len(app.workers) for app in apps)
    return f"stopping: {left} worker{'' if left == 1 else 's'} left"


def app_status(app: App, now: float) -> AppStatus:
    """One app, workers sorted by slot, the one that serves before those that leave."""
    rows: list[WorkerStatus] = []
    fleet = app.engine.fleet
    for number in sorted(fleet.slots):
        slot = fleet.slots[number]
        seated = [seat for seat in (slot.holder, slot.heir) if seat is not None]
        rows += [_worker(app, app.workers[seat.id], seat, now) for seat in seated if seat.id in app.workers]
        if not seated:
            rows.append(_empty(app, slot))
    leaving = (app.workers[number] for number in fleet.leaving if number in app.workers)
    rows += [_worker(app, worker, None, now) for worker in leaving]
    listeners = app.listeners.of(app.settings.bind)
    return AppStatus(
        state=app.state,
        generation=app.engine.roll.base,
        bind=tuple(listener.bound for listener in listeners) or app.settings.bind,
        workers=tuple(sorted(rows, key=lambda row: (row.slot, row.state == "draining"))),
        totals=app.accounts.totals(app.workers.values()),
        last_roll=app.rollout.book.last(list(app.workers.values())),
        max_memory_bytes=msgspec.UNSET if (limit := app.max_memory(app.settings)) is None else limit,
    )


def _worker(app: App, worker: Worker, seat: seats.Worker | None, now: float) -> WorkerStatus:
    row = worker.row
    vitals = app.watch.sampler.of(worker)
    state: SlotState = "draining"
    if seat is not None:
        state = _STATES[row[Cell.STATE]] if seat.ready_at is not None else "starting"
        if state != "starting" and app.watch.stalls.is_stalled(worker):
            state = "stalled"
    return WorkerStatus(
        slot=worker.slot,
        pid=worker.pid,
        generation=worker.generation,
        state=state,
        uptime_s=round(now - worker.began, 3),
        inflight=worker.inflight,
        connections=row[Cell.CONNECTIONS],
        requests=row[Cell.STARTED],
        lag_ms=round(row[Cell.LAG_NS] / 1e6, 3),
        lag_max_ms=round(row[Cell.LAG_MAX_NS] / 1e6, 3),
        rss_bytes=vitals.rss_bytes,
        pss_bytes=vitals.pss_bytes,
        cpu_percent=round(vitals.cpu_percent, 1),
        restarts=app.accounts.by_slot.get(worker.slot, 0),
        uss_bytes=vitals.uss_bytes,
    )


def _empty(app: App, slot: seats.Slot) -> WorkerStatus:
    """A slot without a process: stopped by hand, or waiting for its next attempt."""
    return WorkerStatus(
        slot=slot.number,
        pid=0,
        generation=slot.want or app.engine.roll.base,
        state="stopped" if slot.want is None else "backoff",
        uptime_s=0.0,
        inflight=0,
        connections=0,
        requests=0,
        lag_ms=0.0,
        lag_max_ms=0.0,
        rss_bytes=0,
        pss_bytes=0,
        cpu_percent=0.0,
        restarts=app.accounts.by_slot.get(slot.number, 0),
    )
