"""Whether requests wait too long for their turn, and who of them is turned away: CoDel (RFC 8289) for requests. Pure.

A queue that is long for a moment is of use, one that stands is of none: everybody in it waits, and nobody is served
sooner or more often for it. It stands when even its oldest has waited longer than `TARGET` for a whole `INTERVAL`. Then
the newest are served first, whose clients are all still there, and the oldest are turned away: one at a time, more
often the longer it lasts, until the queue stands no more; and everybody who has waited for `OVERLOADED` of the timeout,
so that he hears of it before he gives up.

What differs from packets: a waiting request costs nobody bandwidth, and turning one away costs a little. So the target
is not a twentieth of the timeout but half of it, for who is answered within it was well served; and there are never
more than `MOST_OFTEN` turned away early, so that clients who come back at once can't make that the server's business.
"""

from __future__ import annotations

import math

from msgspec import Struct
from msgspec.structs import replace

TARGET = 0.5  # of the timeout: a wait that is borne
INTERVAL = 0.1  # seconds
MOST_OFTEN = 400.0  # a second
OVERLOADED = 0.75  # of the timeout: who has waited for so long in a standing queue has waited in vain
_MOST = (MOST_OFTEN * INTERVAL) ** 2
_MEMORY = 16 * INTERVAL  # seconds in which an overload that comes back goes on where it was, RFC 8289 section 5.5


class Queue(Struct, frozen=True):
    """Times are seconds of one monotonic clock. `timeout` 0 bears any wait."""

    timeout: float
    stands_at: float | None = None  # when it counts as standing, if its oldest goes on waiting for more than the target
    is_overloaded: bool = False
    count: int = 0  # turned away in this overload, which sets their pace
    next_at: float = 0.0  # the next one


def step(state: Queue, wait: float, now: float) -> tuple[Queue, bool]:
    """The queue, whose oldest has waited for `wait` seconds (0 when it is empty), and whether that one is turned away.

    If so, ask again with the next oldest.
    """
    if wait < TARGET * state.timeout or not state.timeout:
        if state.stands_at is None:
            return state, False
        return replace(state, stands_at=None, is_overloaded=False), False
    if state.stands_at is None:
        return replace(state, stands_at=now + INTERVAL), wait >= state.timeout
    if not state.is_overloaded:
        if now < state.stands_at:
            return state, wait >= state.timeout
        count = state.count - 2 if state.count > 2 and now - state.next_at < _MEMORY else 1
        return _next(replace(state, is_overloaded=True, count=count), now), True
    if now >= state.next_at:
        return _next(replace(state, count=state.count + 1), max(state.next_at, now - INTERVAL)), True
    return state, wait >= OVERLOADED * state.timeout


def _next(state: Queue, at: float) -> Queue:
    """The control law, RFC 8289 section 4.3: the pace grows with the square root of the count."""
    return replace(state, next_at=at + INTERVAL / math.sqrt(min(state.count, _MOST)))
