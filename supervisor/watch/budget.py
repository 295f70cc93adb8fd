"""How often the watch may kill: a budget of kills a minute, so that it cannot make an overload into an outage. Pure.

Invariant: in no span of `SPAN` seconds are more kills granted than the limit, whatever is asked and however the limit
changes meanwhile. Once a kill had to be refused none is granted before half of the budget has come back, so that a
cluster in trouble gets a pause and not a kill whenever one falls out of the span. It stays degraded until then, and
until nothing has been refused for `QUIET` seconds.

Only kills count: what a worker was in the middle of is lost with them. To recycle one (memory, requests) costs nobody
anything, since the new one is there first and no two are replaced at once; and a worker that dies by itself is held
back by its slot's `fleet.backoff`.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

SPAN = 60.0  # seconds
QUIET = 10.0  # seconds without a refusal that show that nobody needs to be killed any more


class Budget(Struct, frozen=True):
    """Of one app. Times are monotonic seconds."""

    spent: tuple[float, ...] = ()  # when a kill was granted within the last `SPAN`, the earliest first
    refused_at: float | None = None  # when one was last refused; None once the app has recovered
    is_held: bool = False  # refused until half of the budget is back

    @property
    def is_degraded(self) -> bool:
        """Some kill had to be refused, and things have not settled since."""
        return self.refused_at is not None


def step(budget: Budget, limit: int, now: float) -> Budget:
    """The budget at `now`, of which `limit` kills in `SPAN` seconds may be taken."""
    spent = tuple(when for when in budget.spent if now - when < SPAN)
    is_held = budget.is_held and len(spent) > limit // 2
    is_quiet = budget.refused_at is None or now - budget.refused_at >= QUIET
    return Budget(spent, None if is_quiet and not is_held else budget.refused_at, is_held)


def spend(budget: Budget, limit: int, now: float) -> tuple[Budget, bool]:
    """Ask for one kill at `now`. Returns the budget after it, and whether it is granted."""
    budget = step(budget, limit, now)
    if budget.is_held or len(budget.spent) >= limit:
        return replace(budget, refused_at=now, is_held=True), False
    return replace(budget, spent=(*budget.spent, now)), True
