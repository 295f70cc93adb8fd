"""What a roll is made of: its state, the events that move it, the commands that come of it. Data only.

Invariant: everything here is frozen; `roll.step` is the only one to make a new state of an old one.
"""

from __future__ import annotations

import enum
from typing import Any

from msgspec import Struct


class Phase(enum.Enum):
    """Where a roll stands."""

    IDLE = "idle"
    PRELOADING = "preloading"
    CANARY = "canary"
    ROLLING = "rolling"
    SETTLING = "settling"
    ROLLING_BACK = "rolling back"


class Roll(Struct, frozen=True):
    """The whole state. Sets hold slot numbers."""

    base: int
    target: int
    phase: Phase = Phase.IDLE
    surge: int = 1
    bake: float = 0.0  # seconds
    waiting: tuple[int, ...] = ()  # not yet asked to move to the target
    moving: frozenset[int] = frozenset()  # asked, not yet there (in CANARY: on trial; in ROLLING_BACK: on the way back)
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
    """A release is wanted on these slots; at most `surge` of them are doubled at once, the first for `bake` seconds."""

    target: int
    slots: tuple[int, ...]
    surge: int
    bake: float = 0.0


class Preloaded(Struct, frozen=True):
    """The generation's spawner is ready to fork."""

    generation: int


class PreloadFailed(Struct, frozen=True):
    """The generation can't be imported, or took too long."""

    generation: int
    reason: str


class Joined(Struct, frozen=True):
    """A ready worker of this generation serves beside the slot's own."""

    slot: int
    generation: int


class Baked(Struct, frozen=True):
    """The generation was watched for the time that `Bake` named, and nothing was found against it."""

    generation: int
    slot: int | None


class Settled(Struct, frozen=True):
    """The slot is served by a ready worker of this generation and by no other."""

    slot: int
    generation: int


class Failed(Struct, frozen=True):
    """A worker of this generation died, did not get ready in time, or did not pass the watch."""

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


Event = Reload | Preloaded | PreloadFailed | Joined | Baked | Settled | Failed | SpawnerLost | SlotsChanged | Abort
EVENTS: tuple[type[Any], ...] = (
    Reload,
    Preloaded,
    PreloadFailed,
    Joined,
    Baked,
    Settled,
    Failed,
    SpawnerLost,
    SlotsChanged,
    Abort,
)

# Commands


class Started(Struct, frozen=True):
    """Tell: a roll has begun."""

    base: int
    target: int


class Preload(Struct, frozen=True):
    """Exec a spawner for this generation."""

    generation: int


class Try(Struct, frozen=True):
    """Have a worker of this generation serve beside the slot's own: the canary."""

    slot: int
    generation: int


class Bake(Struct, frozen=True):
    """Watch the generation's workers for so many seconds: the one on trial in `slot`, or (None) all of them."""

    generation: int
    slot: int | None
    seconds: float


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


Command = Started | Preload | Try | Bake | Move | Stepped | Committed | RolledBack | Superseded
Outcome = tuple[Roll, list[Command]]
