"""A roll as a state machine: `step(roll, event, now) -> (roll, commands)`, total over every phase and event.

Invariants:
- `base` is the last committed generation. Until `Committed`, every slot can go back to it.
- A slot is asked to move only after one worker of the target has served beside the old ones and was baked.
- A roll is committed only after the whole of it has settled: nothing was found against it since its last slot moved.
- A roll ends in exactly one of `Committed`, `RolledBack`, `Superseded`, and each names both generations.
- News about a generation that is neither `base` nor `target` changes nothing: it is late news of a superseded release.

    IDLE --Reload--> PRELOADING --Preloaded--> CANARY --Baked--> ROLLING --all Settled--> SETTLING --Baked--> IDLE
                         |                        |                 |                        |         (Committed)
                   PreloadFailed                  +-----------------+------------------------+
                         v                            Failed, SpawnerLost   v
                        IDLE  <--------------Settled---------------- ROLLING_BACK                     (RolledBack)

A `Reload` in any phase starts over with the newest release. The machine knows no process, socket, clock or log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from supervisor.reload.records import (
    Abort,
    Bake,
    Baked,
    Command,
    Committed,
    Event,
    Failed,
    Joined,
    Move,
    Outcome,
    Phase,
    Preload,
    Preloaded,
    PreloadFailed,
    Reload,
    Roll,
    RolledBack,
    Settled,
    SlotsChanged,
    SpawnerLost,
    Started,
    Stepped,
    Superseded,
    Try,
)

LONGEST_SETTLE = 1.0  # seconds


def settle_time(bake: float) -> float:
    """Seconds for which the whole of a release is watched once its last slot has moved: half the bake, 1 s at most."""
    return min(LONGEST_SETTLE, bake / 2)


def step(roll: Roll, event: Event, now: float) -> Outcome:
    """What the roll becomes after `event` at monotonic time `now`, and what is to be done about it."""
    return TABLE[roll.phase, type(event)](roll, event, now)


def _ignore(roll: Roll, _event: Event, _now: float) -> Outcome:
    return roll, []


def _begin(roll: Roll, event: Reload, now: float) -> Outcome:
    fresh = Roll(roll.base, event.target, Phase.PRELOADING, event.surge, event.bake, event.slots, began=now)
    return fresh, [Started(roll.base, event.target), Preload(event.target)]


def _supersede(roll: Roll, event: Reload, now: float) -> Outcome:
    """Slots under way return to what serves them; those already moved stay, as strays, until the new roll ends."""
    begun, commands = _begin(roll, event, now)
    strays = roll.strays
    calls: list[Command] = []
    if roll.phase is Phase.CANARY:
        strays -= roll.moving
        calls += [Move(slot, roll.base) for slot in sorted(roll.moving)]
    if roll.phase in (Phase.ROLLING, Phase.SETTLING):
        strays |= roll.moved
        calls += [Move(slot, roll.base) for slot in sorted(roll.moving - roll.strays)]
    if roll.phase is Phase.ROLLING_BACK:
        strays |= roll.moving
    ended = Superseded(roll.base, roll.target, event.target, now - roll.began)
    return replace(begun, strays=strays), [*calls, ended, *commands]


def _preloaded(roll: Roll, event: Preloaded, now: float) -> Outcome:
    if event.generation != roll.target:
        return roll, []
    return _try(roll, now)


def _try(roll: Roll, now: float) -> Outcome:
    """Put a worker on trial in the first slot that waits; without any slot there is nobody to watch."""
    if not roll.waiting:
        return _advance(roll, now)
    slot, *left = roll.waiting
    tried = replace(roll, phase=Phase.CANARY, waiting=tuple(left), moving=frozenset({slot}))
    return tried, [Try(slot, roll.target)]


def _joined(roll: Roll, event: Joined, _now: float) -> Outcome:
    if event.generation != roll.target or event.slot not in roll.moving:
        return roll, []
    return roll, [Bake(roll.target, event.slot, roll.bake)]


def _passed(roll: Roll, event: Baked, _now: float) -> Outcome:
    if event.generation != roll.target or event.slot not in roll.moving:
        return roll, []
    return replace(roll, phase=Phase.ROLLING), [Move(slot, roll.target) for slot in roll.moving]


def _advance(roll: Roll, now: float) -> Outcome:
    """Ask further slots to move, as many as `surge` allows; when none is left, have the whole settle."""
    if not roll.waiting and not roll.moving:
        if not roll.moved:
            return _commit(roll, now)
        settling = replace(roll, phase=Phase.SETTLING)
        return settling, [Bake(roll.target, None, settle_time(roll.bake))]
    room = (roll.surge if roll.moved else 1) - len(roll.moving)
    asked, left = roll.waiting[: max(0, room)], roll.waiting[max(0, room) :]
    grown = replace(roll, phase=Phase.ROLLING, waiting=left, moving=roll.moving | set(asked))
    return grown, [Move(slot, roll.target) for slot in asked]


def _commit(roll: Roll, now: float) -> Outcome:
    return Roll(roll.target, roll.target), [Committed(roll.base, roll.target, now - roll.began)]


def _has_settled(roll: Roll, event: Baked, now: float) -> Outcome:
    if event.generation != roll.target or event.slot is not None:
        return roll, []
    return _commit(roll, now)


def _settled(roll: Roll, event: Settled, now: float) -> Outcome:
    if event.generation != roll.target or event.slot not in roll.moving:
        return roll, []
    roll = replace(
        roll,
        moving=roll.moving - {event.slot},
        moved=roll.moved | {event.slot},
        strays=roll.strays - {event.slot},
    )
    stepped = Stepped(event.slot, len(roll.moved), roll.total)
    advanced, commands = _advance(roll, now)
    return advanced, [stepped, *commands]


def _fail(roll: Roll, event: PreloadFailed | Failed | SpawnerLost, now: float) -> Outcome:
    if event.generation != roll.target:
        return roll, []
    return _go_back(roll, event.reason, now)


def _go_back(roll: Roll, reason: str, now: float) -> Outcome:
    away = roll.moving | roll.moved | roll.strays
    back = replace(
        roll, phase=Phase.ROLLING_BACK, waiting=(), moving=away, moved=frozenset(), strays=frozenset(), reason=reason
    )
    moves: list[Command] = [Move(slot, roll.base) for slot in sorted(away)]
    ended, commands = _returned(back, frozenset(), now)
    return ended, moves + commands


def _returned(roll: Roll, slots: Iterable[int], now: float) -> Outcome:
    roll = replace(roll, moving=roll.moving - set(slots))
    if roll.moving:
        return roll, []
    ended = RolledBack(roll.base, roll.target, now - roll.began, roll.reason)
    return Roll(roll.base, roll.base), [ended]


def _slot_is_back(roll: Roll, event: Settled | Failed, now: float) -> Outcome:
    """A base worker that fails here is a crash like any other, for the fleet to retry: no roll waits for it."""
    if event.generation != roll.base or event.slot not in roll.moving:
        return roll, []
    return _returned(roll, {event.slot}, now)


def _resize(roll: Roll, event: SlotsChanged, _now: float) -> Outcome:
    slots = set(event.slots)
    added = tuple(slot for slot in event.slots if slot not in {*roll.waiting, *roll.moving, *roll.moved})
    kept = tuple(slot for slot in roll.waiting if slot in slots)
    resized = replace(
        roll, waiting=kept + added, moving=roll.moving & slots, moved=roll.moved & slots, strays=roll.strays & slots
    )
    return resized, []


def _resize_the_trial(roll: Roll, event: SlotsChanged, now: float) -> Outcome:
    """The canary's slot may be gone: then another one is tried."""
    resized, _ = _resize(roll, event, now)
    return (resized, []) if resized.moving else _try(resized, now)


def _resize_while_settling(roll: Roll, event: SlotsChanged, now: float) -> Outcome:
    resized, _ = _resize(roll, event, now)
    return (resized, []) if resized.moved and not resized.waiting else _advance(resized, now)


def _resize_and_go_on(roll: Roll, event: SlotsChanged, now: float) -> Outcome:
    return _advance(_resize(roll, event, now)[0], now)


def _resize_on_the_way_back(roll: Roll, event: SlotsChanged, now: float) -> Outcome:
    return _returned(roll, roll.moving - set(event.slots), now)


def _abort(roll: Roll, event: Abort, now: float) -> Outcome:
    ended = RolledBack(roll.base, roll.target, now - roll.began, roll.reason or event.reason)
    return Roll(roll.base, roll.base), [ended]


TABLE: dict[tuple[Phase, type[Any]], Callable[[Roll, Any, float], Outcome]] = {
    (Phase.IDLE, Reload): _begin,
    (Phase.IDLE, Preloaded): _ignore,
    (Phase.IDLE, PreloadFailed): _ignore,
    (Phase.IDLE, Joined): _ignore,
    (Phase.IDLE, Baked): _ignore,
    (Phase.IDLE, Settled): _ignore,
    (Phase.IDLE, Failed): _ignore,
    (Phase.IDLE, SpawnerLost): _ignore,
    (Phase.IDLE, SlotsChanged): _ignore,
    (Phase.IDLE, Abort): _ignore,
    (Phase.PRELOADING, Reload): _supersede,
    (Phase.PRELOADING, Preloaded): _preloaded,
    (Phase.PRELOADING, PreloadFailed): _fail,
    (Phase.PRELOADING, Joined): _ignore,
    (Phase.PRELOADING, Baked): _ignore,
    (Phase.PRELOADING, Settled): _ignore,
    (Phase.PRELOADING, Failed): _ignore,
    (Phase.PRELOADING, SpawnerLost): _fail,
    (Phase.PRELOADING, SlotsChanged): _resize,
    (Phase.PRELOADING, Abort): _abort,
    (Phase.CANARY, Reload): _supersede,
    (Phase.CANARY, Preloaded): _ignore,
    (Phase.CANARY, PreloadFailed): _fail,
    (Phase.CANARY, Joined): _joined,
    (Phase.CANARY, Baked): _passed,
    (Phase.CANARY, Settled): _ignore,
    (Phase.CANARY, Failed): _fail,
    (Phase.CANARY, SpawnerLost): _fail,
    (Phase.CANARY, SlotsChanged): _resize_the_trial,
    (Phase.CANARY, Abort): _abort,
    (Phase.ROLLING, Reload): _supersede,
    (Phase.ROLLING, Preloaded): _ignore,
    (Phase.ROLLING, PreloadFailed): _fail,
    (Phase.ROLLING, Joined): _ignore,
    (Phase.ROLLING, Baked): _ignore,
    (Phase.ROLLING, Settled): _settled,
    (Phase.ROLLING, Failed): _fail,
    (Phase.ROLLING, SpawnerLost): _fail,
    (Phase.ROLLING, SlotsChanged): _resize_and_go_on,
    (Phase.ROLLING, Abort): _abort,
    (Phase.SETTLING, Reload): _supersede,
    (Phase.SETTLING, Preloaded): _ignore,
    (Phase.SETTLING, PreloadFailed): _fail,
    (Phase.SETTLING, Joined): _ignore,
    (Phase.SETTLING, Baked): _has_settled,
    (Phase.SETTLING, Settled): _ignore,
    (Phase.SETTLING, Failed): _fail,
    (Phase.SETTLING, SpawnerLost): _fail,
    (Phase.SETTLING, SlotsChanged): _resize_while_settling,
    (Phase.SETTLING, Abort): _abort,
    (Phase.ROLLING_BACK, Reload): _supersede,
    (Phase.ROLLING_BACK, Preloaded): _ignore,
    (Phase.ROLLING_BACK, PreloadFailed): _ignore,
    (Phase.ROLLING_BACK, Joined): _ignore,
    (Phase.ROLLING_BACK, Baked): _ignore,
    (Phase.ROLLING_BACK, Settled): _slot_is_back,
    (Phase.ROLLING_BACK, Failed): _slot_is_back,
    (Phase.ROLLING_BACK, SpawnerLost): _ignore,
    (Phase.ROLLING_BACK, SlotsChanged): _resize_on_the_way_back,
    (Phase.ROLLING_BACK, Abort): _abort,
}
