"""An app's slots as a state machine: `step(fleet, event, now) -> (fleet, commands)`.

Invariants:
- A slot wants one generation, or none. Its *holder* serves; its *heir* is the new worker that will take its place.
- New first: a serving holder is drained only once its heir is ready. Nothing but a crash or a stop leaves a slot
  without a holder while its replacement boots.
- An heir on trial never takes the holder's place by itself: not when it is ready, and not when the holder dies.
- A dead worker's slot is filled again at once, then with growing delays (`backoff`); no other slot is touched by it.
- Recycling (memory, requests, age) takes one worker of the app at a time: the next one is not touched before the last
  has left, and a jittered rest is over.
- Every worker that was spawned is accounted for until `Gone` is reported: as holder, as heir, or among the leaving.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from supervisor.fleet.backoff import FAILED_AFTER, count, delay, rest_of
from supervisor.fleet.records import (
    LEAVE_GRACE,
    BecameReady,
    Command,
    Died,
    Drain,
    Event,
    Fleet,
    Gone,
    Joined,
    Kill,
    Outcome,
    Recycle,
    Recycling,
    Remove,
    Settled,
    Slot,
    Spawn,
    Terms,
    Tick,
    Try,
    Want,
    Worker,
)
from supervisor.messages.status import AppState


def step(fleet: Fleet, event: Event, now: float) -> Outcome:
    """What the fleet becomes after `event` at monotonic time `now`, and what is to be done about it."""
    settled_before = {number for number, slot in fleet.slots.items() if slot.is_settled}
    # Who asks for what already is shall hear so, too.
    asked = set(event.slots) if isinstance(event, Want) else set()
    fleet, told = _HANDLERS[type(event)](fleet, event, now)
    fleet, commands = _reconcile(fleet, now)
    settled: list[Command] = [
        Settled(number, slot.want)
        for number, slot in sorted(fleet.slots.items())
        if slot.is_settled and slot.want is not None and (number in asked or number not in settled_before)
    ]
    return fleet, told + commands + settled


def next_wake(fleet: Fleet) -> float | None:
    """The monotonic time at which a `Tick` is due, or None when nothing waits for time to pass."""
    workers = [worker for slot in fleet.slots.values() for worker in (slot.holder, slot.heir) if worker is not None]
    booting = [worker for worker in workers if worker.ready_at is None]
    times = [worker.deadline for worker in (*fleet.leaving.values(), *booting) if not worker.doomed]
    times += [slot.retry_at for slot in fleet.slots.values() if slot.lacks_worker]
    return min(times, default=None)


def generations(fleet: Fleet) -> set[int]:
    """The generations that some slot wants or tries: their spawners must stay."""
    wanted = {slot.want for slot in fleet.slots.values()} | {slot.trial for slot in fleet.slots.values()}
    return {generation for generation in wanted if generation is not None}


def standing(fleet: Fleet) -> AppState:
    """How the app is, as `status` shows it (a roll under way is shown over this)."""
    wanted = [slot for slot in fleet.slots.values() if slot.want is not None]
    if not wanted:
        return "stopped"
    lacking = [slot for slot in wanted if not slot.is_ready]
    if not lacking:
        return "running"
    if len(lacking) == len(wanted):
        return "failed" if all(slot.failures >= FAILED_AFTER for slot in lacking) else "starting"
    return "degraded" if any(slot.failures > 1 for slot in lacking) else "running"


def may_recycle(fleet: Fleet, now: float) -> bool:
    """Every wanted slot is served, nobody is on the way out, and who has just gone has been gone for a while."""
    is_quiet = not fleet.leaving and fleet.rests_until <= now
    return is_quiet and all(slot.is_settled for slot in fleet.slots.values() if slot.want is not None)


def _want(fleet: Fleet, event: Want, _now: float) -> Outcome:
    for number, want in event.slots.items():
        slot = fleet.slots.get(number, Slot(number))
        if slot.want != want or slot.removed:
            # What failed in another generation says nothing about this one.
            slot = replace(slot, want=want, failures=0, retry_at=0.0, replace_why="", removed=False)
        fleet = _put(fleet, replace(slot, trial=None))
    return fleet, []


def _try(fleet: Fleet, event: Try, _now: float) -> Outcome:
    slot = fleet.slots.get(event.slot, Slot(event.slot))
    return _put(fleet, replace(slot, trial=event.generation)), []


def _remove(fleet: Fleet, event: Remove, _now: float) -> Outcome:
    for number in event.slots & set(fleet.slots):
        fleet = _put(fleet, replace(fleet.slots[number], want=None, trial=None, removed=True))
    return fleet, []


def _terms(fleet: Fleet, event: Terms, _now: float) -> Outcome:
    return replace(fleet, boot_timeout=event.boot_timeout, drain_timeout=event.drain_timeout), []


def _ready(fleet: Fleet, event: BecameReady, now: float) -> Outcome:
    slot = _find(fleet, event.worker)
    if slot is None:
        return fleet, []
    if slot.holder is not None and slot.holder.id == event.worker:
        return _put(fleet, replace(slot, holder=replace(slot.holder, ready_at=now))), []
    assert slot.heir is not None
    slot = replace(slot, heir=replace(slot.heir, ready_at=now))
    joined: list[Command] = [Joined(slot.number, slot.trial)] if slot.trial is not None else []
    return _put(fleet, slot), joined


def _gone(fleet: Fleet, event: Gone, now: float) -> Outcome:
    if event.worker in fleet.leaving:
        rest = {key: worker for key, worker in fleet.leaving.items() if key != event.worker}
        return replace(fleet, leaving=rest, rests_until=now + rest_of(event.chance)), []
    slot = _find(fleet, event.worker)
    if slot is None:
        return fleet, []
    is_holder = slot.holder is not None and slot.holder.id == event.worker
    dead = slot.holder if is_holder else slot.heir
    assert dead is not None
    was_ready = dead.ready_at is not None
    if not is_holder and slot.trial is not None:
        over = Died(dead.id, slot.number, dead.generation, event.reason, was_ready, 1, None)
        return _put(fleet, replace(slot, heir=None, trial=None)), [over]
    slot = replace(slot, holder=None) if is_holder else replace(slot, heir=None)
    served = 0.0 if dead.ready_at is None else now - dead.ready_at
    failures = count(slot.failures, served)
    wait = delay(failures, event.chance)
    slot = replace(slot, failures=failures, retry_at=now + wait if wait else 0.0)
    if is_holder:
        slot = replace(slot, replace_why="")
    died = Died(dead.id, slot.number, dead.generation, event.reason, was_ready, failures, wait)
    return _put(fleet, slot), [died]


def _recycle(fleet: Fleet, event: Recycle, now: float) -> Outcome:
    slot = fleet.slots.get(event.slot)
    if slot is None or not slot.is_settled or slot.holder is None:
        return fleet, []
    if not event.insist and not may_recycle(fleet, now):
        return fleet, []
    told: list[Command] = [Recycling(slot.holder.id, slot.number, event.why)]
    return _put(fleet, replace(slot, replace_why=event.why, retry_at=0.0)), told


def _tick(fleet: Fleet, _event: Tick, now: float) -> Outcome:
    told: list[Command] = []
    leaving = dict(fleet.leaving)
    for worker in fleet.leaving.values():
        if not worker.doomed and worker.deadline <= now:
            told.append(Kill(worker.id, f"still there {LEAVE_GRACE:g} s after its drain timeout", is_fault=True))
            leaving[worker.id] = replace(worker, doomed=True)
    fleet = replace(fleet, leaving=leaving)
    for slot in list(fleet.slots.values()):
        holder, heir = _overdue(slot.holder, now), _overdue(slot.heir, now)
        why = f"not ready within {fleet.boot_timeout:g} s"
        told += [Kill(late.id, why, is_fault=True) for late in (holder, heir) if late is not None]
        fleet = _put(fleet, replace(slot, holder=holder or slot.holder, heir=heir or slot.heir))
    return fleet, told


def _overdue(worker: Worker | None, now: float) -> Worker | None:
    """The worker, doomed, when its time to get ready is over; else None."""
    if worker is None or worker.doomed or worker.ready_at is not None or worker.deadline > now:
        return None
    return replace(worker, doomed=True)


_HANDLERS: dict[type[Any], Callable[[Fleet, Any, float], Outcome]] = {
    Want: _want,
    Try: _try,
    Remove: _remove,
    Terms: _terms,
    BecameReady: _ready,
    Gone: _gone,
    Recycle: _recycle,
    Tick: _tick,
}


def _reconcile(fleet: Fleet, now: float) -> Outcome:
    """Bring every slot one step nearer to what it wants."""
    commands: list[Command] = []
    for number in sorted(fleet.slots):
        slot = fleet.slots[number]
        if slot.want is None and slot.trial is None:
            fleet, done = _empty(fleet, slot, now)
        else:
            fleet, dismissed = _dismiss(fleet, slot, now)
            fleet, placed = _place(fleet, fleet.slots[number], now)
            fleet, spawned = _fill(fleet, fleet.slots[number], now)
            done = dismissed + placed + spawned
        commands += done
    kept = {number: slot for number, slot in fleet.slots.items() if not slot.removed}
    return replace(fleet, slots=kept), commands


def _empty(fleet: Fleet, slot: Slot, now: float) -> Outcome:
    """Nobody is wanted: the heir goes at once, the holder after its requests; then the slot is gone."""
    commands: list[Command] = []
    for worker in (slot.heir, slot.holder):
        if worker is None:
            continue
        if worker.is_ready:
            commands.append(Drain(worker.id, "stopped"))
            fleet = _leave(fleet, replace(worker, deadline=now + fleet.drain_timeout + LEAVE_GRACE))
        else:
            if not worker.doomed:
                commands.append(Kill(worker.id, "stopped before it was ready"))
            fleet = _leave(fleet, replace(worker, doomed=True))
    return _put(fleet, replace(slot, holder=None, heir=None, replace_why="")), commands


def _dismiss(fleet: Fleet, slot: Slot, now: float) -> Outcome:
    """One that has not served anyone yet, of a generation no longer wanted, is not worth waiting for; nor is an heir
    whose trial is over."""
    commands: list[Command] = []
    heir_of = slot.want if slot.trial is None else slot.trial
    holder, heir = slot.holder, slot.heir
    if holder is not None and holder.generation != slot.want and holder.ready_at is None:
        fleet, done = _see_off(fleet, holder, "", now)
        commands, slot = commands + done, replace(slot, holder=None)
    if heir is not None and heir.generation != heir_of:
        fleet, done = _see_off(fleet, heir, "its release is given up", now)
        commands, slot = commands + done, replace(slot, heir=None)
    return _put(fleet, slot), commands


def _see_off(fleet: Fleet, worker: Worker, why: str, now: float) -> Outcome:
    """Drained when it serves, else killed."""
    if worker.is_ready:
        return _leave(fleet, replace(worker, deadline=now + fleet.drain_timeout + LEAVE_GRACE)), [Drain(worker.id, why)]
    kill: list[Command] = [] if worker.doomed else [Kill(worker.id, "no longer wanted")]
    return _leave(fleet, replace(worker, doomed=True)), kill


def _place(fleet: Fleet, slot: Slot, now: float) -> Outcome:
    """An heir that is not on trial becomes the holder: of an empty slot at once, else when it is ready."""
    holder, heir = slot.holder, slot.heir
    if slot.trial is not None or heir is None or (holder is not None and not heir.is_ready):
        return fleet, []
    told: list[Command] = []
    if holder is not None:
        told.append(Drain(holder.id, slot.replace_why or f"replaced by generation {heir.generation}"))
        fleet = _leave(fleet, replace(holder, deadline=now + fleet.drain_timeout + LEAVE_GRACE))
        slot = replace(slot, replace_why="")
    return _put(fleet, replace(slot, holder=heir, heir=None)), told


def _fill(fleet: Fleet, slot: Slot, now: float) -> Outcome:
    """Spawn who is missing. A worker on trial has no earlier attempts to wait for."""
    commands: list[Command] = []
    if slot.lacks_worker and slot.retry_at <= now:
        assert slot.want is not None
        fleet, fresh = _spawn(fleet, slot.number, slot.want, now)
        slot = replace(slot, holder=fresh) if slot.holder is None else replace(slot, heir=fresh)
        slot = replace(slot, retry_at=0.0)
        commands.append(Spawn(fresh.id, slot.number, fresh.generation))
    if slot.trial is not None and slot.heir is None:
        fleet, fresh = _spawn(fleet, slot.number, slot.trial, now)
        slot = replace(slot, heir=fresh)
        commands.append(Spawn(fresh.id, slot.number, fresh.generation))
    return _put(fleet, slot), commands


def _spawn(fleet: Fleet, slot: int, generation: int, now: float) -> tuple[Fleet, Worker]:
    fresh = Worker(fleet.next_id, slot, generation, now + fleet.boot_timeout)
    return replace(fleet, next_id=fleet.next_id + 1), fresh


def _find(fleet: Fleet, worker: int) -> Slot | None:
    for slot in fleet.slots.values():
        if (slot.holder and slot.holder.id == worker) or (slot.heir and slot.heir.id == worker):
            return slot
    return None


def _put(fleet: Fleet, slot: Slot) -> Fleet:
    slots = dict(fleet.slots)
    slots[slot.number] = slot
    return replace(fleet, slots=slots)


def _leave(fleet: Fleet, worker: Worker) -> Fleet:
    return replace(fleet, leaving={**fleet.leaving, worker.id: worker})
