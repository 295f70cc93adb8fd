"""Whether one worker has many more connections than the others, and how many it is to lend them. Pure.

Invariants:
- It takes two looks in a row at a worker, and who is uneven at both, by `UNEVEN` and by more than `FEW`, is brought to
  the mean: what is left of the difference is far from making anybody act again.
- A worker without room lends all it has, as long as another has some.
- Who could lend nothing, for what it has is in use or can't be handed over, is asked again later and later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

UNEVEN = 1.2  # times the mean
FEW = 2  # connections above the mean that are nobody's business
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0  # seconds


class Load(Struct, frozen=True):
    """Of one worker that serves. `given` is how many connections it has ever handed over."""

    connections: int
    given: int
    has_room: bool


class Evenness(Struct, frozen=True):
    """Who was `uneven` at the last look. `asked_at` counts `given` when lending was last asked for; None: it is not."""

    uneven: frozenset[int] = frozenset()
    asked_at: int | None = None
    not_before: float = 0.0
    pause: float = FIRST_PAUSE

    @property
    def is_in_doubt(self) -> bool:
        """Somebody was uneven at one look, and the next decides."""
        return bool(self.uneven) and self.asked_at is None


class Lending(Struct, frozen=True):
    """Each of `lenders` gives so many; up to `share` connections each of the others takes them at once."""

    lenders: dict[int, int]
    share: int


def step(state: Evenness, loads: Mapping[int, Load], now: float) -> tuple[Evenness, Lending | None]:
    """The next state after a look at all workers, by id, and what is to be lent now. No lenders: nobody lends any more;
    None: all stays as it is."""
    share, found = _surplus(loads)
    uneven = frozenset(found)
    lenders = {worker: count for worker, count in found.items() if worker in state.uneven}
    if not lenders:
        return Evenness(uneven), Lending({}, share) if state.asked_at is not None else None
    if now < state.not_before:
        return replace(state, uneven=uneven), None
    given = sum(load.given for load in loads.values())
    moved = state.asked_at is None or given > state.asked_at
    pause = FIRST_PAUSE if moved else min(LONGEST_PAUSE, 2 * state.pause)
    return Evenness(uneven, given, now + pause, pause), Lending(lenders, share)


def _surplus(loads: Mapping[int, Load]) -> tuple[int, dict[int, int]]:
    takers = sum(load.has_room for load in loads.values())
    if not takers or len(loads) < 2:
        return 0, {}
    mean = sum(load.connections for load in loads.values()) / takers
    share = math.ceil(mean)
    most = max(UNEVEN * mean, mean + FEW)
    lenders = {}
    for worker, load in loads.items():
        if not load.has_room and load.connections:
            lenders[worker] = load.connections
        elif load.connections > most:
            lenders[worker] = load.connections - share
    return share, lenders
