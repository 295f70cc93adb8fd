"""A roll as a state machine: `step(roll, event, now) -> (roll, commands)`, total over every phase and event.

Invariants:
- `base` is the last committed generation. Until `Committed`, every slot can go back to it.
- A slot is asked to move only after the new generation has been preloaded; the first one moves alone.
- A roll ends in exactly one of `Committed`, `RolledBack`, `Superseded`, and each names both generations.
- News about a generation that is neither `base` nor `target` changes nothing: it is late news of a superseded release.

    IDLE --Reload--> PRELOADING --Preloaded--> ROLLING --all slots Settled--> IDLE  (Committed)
                         |                        |
                   PreloadFailed        Failed, SpawnerLost
                         v                        v
                        IDLE  <--Settled-- ROLLING_BACK                            (RolledBack)

A `Reload` in any phase starts over with the newest release. The machine knows no process, socket, clock or log.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace


class Phase(enum.Enum):
    """Where a roll stands."""

    IDLE = "idle"
    PRELOADING = "preloading"
    ROLLING = "rolling"
    ROLLING_BACK = "rolling back"


class Roll(Struct, frozen=True):
    """The whole state. Sets hold slot numbers."""

    base: int
    target: int
    phase: Phase = Phase.IDLE
    surge: int = 1
    waiting: tuple[int, ...] = ()  # not yet asked to move to the target
    moving: frozenset[int] = frozenset()  # asked, not yet there (in ROLLING_BACK: on the way back)
    moved: frozenset[int] = frozenset()  # there
    strays: frozenset[int] = frozenset()  # left on a superseded generation: must move, whichever way this roll ends
    reason: str = ""
    began: float = 0.0

    @property
    def is_under_way(self) -> bool:
        return self.phase is not Phase.IDLE

    @property
    def total(self) -> int:
        return len(self.waiting) + len(self.moving) + len(self.moved)


# Events


class Reload(Struct, frozen=True):
    """A new release is wanted on these slots; at most `surge` of them are doubled at once."""

    target: int
    slots: tuple[int, ...]
    surge: int


class Preloaded(Struct, frozen=True):
    """The generation's spawner is ready to fork."""

    generation: int


class PreloadFailed(Struct, frozen=True):
    """The generation can't be imported, or took too long."""

    generation: int
    reason: str


class Settled(Struct, frozen=True):
    """The slot is served by a ready worker of this generation and by no other."""

    slot: int
    generation: int


class Failed(Struct, frozen=True):
    """A worker of this generation died, ready or not, or did not get ready in time."""

    slot: int
    generation: int
    reason: str


class SpawnerLost(Struct, frozen=True):
    """The generation's spawner died after it had preloaded."""

    generation: int
    reason: str


class SlotsChanged(Struct, frozen=True):
    """The app's slots are now these: scaled, or one stopped or started by hand."""

    slots: tuple[int, ...]


class Abort(Struct, frozen=True):
    """The app is being stopped: no verdict but this one is left to give."""

    reason: str


Event = Reload | Preloaded | PreloadFailed | Settled | Failed | SpawnerLost | SlotsChanged | Abort
EVENTS: tuple[type[Any], ...] = (Reload, Preloaded, PreloadFailed, Settled, Failed, SpawnerLost, SlotsChanged, Abort)

# Commands


class Started(Struct, frozen=True):
    """Tell: a roll has begun."""

    base: int
    target: int


class Preload(Struct, frozen=True):
    """Exec a spawner for this generation."""

    generation: int


class Move(Struct, frozen=True):
    """Have the slot served by this generation: a new worker ready first, then the old one drained."""

    slot: int
    generation: int


class Stepped(Struct, frozen=True):
    """Tell: one more slot is on the new release."""

    slot: int
    done: int
    total: int


class Committed(Struct, frozen=True):
    """Tell: the target is the base now."""

    base: int
    target: int
    seconds: float


class RolledBack(Struct, frozen=True):
    """Tell: every slot is on the base again (or never left it)."""

    base: int
    target: int
    seconds: float
    reason: str


class Superseded(Struct, frozen=True):
    """Tell: a newer release took this one's place before it was decided."""

    base: int
    target: int
    by: int
    seconds: float


Command = Started | Preload | Move | Stepped | Committed | RolledBack | Superseded
Outcome = tuple[Roll, list[Command]]


def step(roll: Roll, event: Event, now: float) -> Outcome:
    """What the roll becomes after `event` at monotonic time `now`, and what is to be done about it."""
    return TABLE[roll.phase, type(event)](roll, event, now)


def _ignore(roll: Roll, _event: Event, _now: float) -> Outcome:
    return roll, []


def _begin(roll: Roll, event: Reload, now: float) -> Outcome:
    fresh = Roll(roll.base, event.target, Phase.PRELOADING, event.surge, event.slots, began=now)
    return fresh, [Started(roll.base, event.target), Preload(event.target)]


def _supersede(roll: Roll, event: Reload, now: float) -> Outcome:
    """Slots under way return to what serves them; those already moved stay, as strays, until the new roll ends."""
    begun, commands = _begin(roll, event, now)
    strays = roll.strays
    calls: list[Command] = []
    if roll.phase is Phase.ROLLING:
        strays |= roll.moved
        calls += [Move(slot, roll.base) for slot in sorted(roll.moving - roll.strays)]
    if roll.phase is Phase.ROLLING_BACK:
        strays |= roll.moving
    ended = Superseded(roll.base, roll.target, event.target, now - roll.began)
    return replace(begun, strays=strays), [*calls, ended, *commands]


def _preloaded(roll: Roll, event: Preloaded, now: float) -> Outcome:
    if event.generation != roll.target:
        return roll, []
    return _advance(replace(roll, phase=Phase.ROLLING), now)


def _advance(roll: Roll, now: float) -> Outcome:
    """Ask further slots to move, as many as `surge` allows, or commit when none is left."""
    if not roll.waiting and not roll.moving:
        ended = Committed(roll.base, roll.target, now - roll.began)
        return Roll(roll.target, roll.target), [ended]
    room = (roll.surge if roll.moved else 1) - len(roll.moving)
    asked, left = roll.waiting[: max(0, room)], roll.waiting[max(0, room) :]
    grown = replace(roll, waiting=left, moving=roll.moving | set(asked))
    return grown, [Move(slot, roll.target) for slot in asked]


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
    (Phase.IDLE, Settled): _ignore,
    (Phase.IDLE, Failed): _ignore,
    (Phase.IDLE, SpawnerLost): _ignore,
    (Phase.IDLE, SlotsChanged): _ignore,
    (Phase.IDLE, Abort): _ignore,
    (Phase.PRELOADING, Reload): _supersede,
    (Phase.PRELOADING, Preloaded): _preloaded,
    (Phase.PRELOADING, PreloadFailed): _fail,
    (Phase.PRELOADING, Settled): _ignore,
    (Phase.PRELOADING, Failed): _ignore,
    (Phase.PRELOADING, SpawnerLost): _fail,
    (Phase.PRELOADING, SlotsChanged): _resize,
    (Phase.PRELOADING, Abort): _abort,
    (Phase.ROLLING, Reload): _supersede,
    (Phase.ROLLING, Preloaded): _ignore,
    (Phase.ROLLING, PreloadFailed): _fail,
    (Phase.ROLLING, Settled): _settled,
    (Phase.ROLLING, Failed): _fail,
    (Phase.ROLLING, SpawnerLost): _fail,
    (Phase.ROLLING, SlotsChanged): _resize_and_go_on,
    (Phase.ROLLING, Abort): _abort,
    (Phase.ROLLING_BACK, Reload): _supersede,
    (Phase.ROLLING_BACK, Preloaded): _ignore,
    (Phase.ROLLING_BACK, PreloadFailed): _ignore,
    (Phase.ROLLING_BACK, Settled): _slot_is_back,
    (Phase.ROLLING_BACK, Failed): _slot_is_back,
    (Phase.ROLLING_BACK, SpawnerLost): _ignore,
    (Phase.ROLLING_BACK, SlotsChanged): _resize_on_the_way_back,
    (Phase.ROLLING_BACK, Abort): _abort,
}
