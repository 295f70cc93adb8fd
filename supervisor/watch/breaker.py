"""The circuit breaker on a worker's loop lag: whether it may take connections, judged tick by tick. Pure.

Invariants:
- One late tick opens it at once. Closed again it is only by a trial: a pause, then a time in which the worker takes
  connections one by one, and its loop is never late.
- Each trip doubles the pause, up to `LONGEST_PAUSE`; each `HEALING` seconds of closed service make up for one trip.
- Lateness while it is open is the old trouble and no further trip: nothing was tried. It only puts the trial off.
"""

from __future__ import annotations

import enum

from msgspec import Struct
from msgspec.structs import replace

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds
TRIAL = 0.5  # seconds, after the pause
HEALING = 10.0  # seconds
_MOST_TRIPS = 6  # that make the pause the longest


class Phase(enum.Enum):
    """As in electricity: current flows while it is closed."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


class Breaker(Struct, frozen=True):
    """Times are seconds of one monotonic clock. `limit` is the lag that a closed breaker bears; 0: any."""

    limit: float
    phase: Phase = Phase.CLOSED
    until: float = 0.0  # when the pause is over, the trial is passed, or one trip is forgiven
    trips: int = 0  # not forgiven yet
    since: float = 0.0  # when it was last closed
    worst: float = 0.0  # the longest lag since then


def step(state: Breaker, lag: float, now: float) -> Breaker:
    """The breaker after a tick that came `lag` seconds late."""
    if 0 < state.limit < lag:
        return _late(state, lag, now)
    if now < state.until:
        return state
    if state.phase is Phase.OPEN:
        return replace(state, phase=Phase.HALF_OPEN, until=now + TRIAL)
    if state.phase is Phase.HALF_OPEN:
        return replace(state, phase=Phase.CLOSED, until=now + HEALING)
    return replace(state, trips=state.trips - 1, until=now + HEALING) if state.trips else state


def _late(state: Breaker, lag: float, now: float) -> Breaker:
    if state.phase is Phase.OPEN:
        return replace(state, until=now + pause(state.trips), worst=max(state.worst, lag))
    trips = min(state.trips + 1, _MOST_TRIPS)
    began, worst = (now, lag) if state.phase is Phase.CLOSED else (state.since, max(state.worst, lag))
    return Breaker(state.limit, Phase.OPEN, now + pause(trips), trips, began, worst)


def pause(trips: int) -> float:
    """Seconds until the next trial, after so many trips."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (trips - 1))
