"""How long to wait before a slot that keeps losing its workers gets another one, and between recyclings. Pure.

Invariant: the first replacement is never delayed; each further death in a row doubles the wait up to a cap, and
jitter keeps slots that died together from coming back together. Service makes up for deaths, so that a worker killed
from without now and then is replaced at once, while one that can't serve for long is not.
"""

from __future__ import annotations

FIRST_DELAY = 0.25
LONGEST_DELAY = 10.0
JITTER = 0.25
STABLE_AFTER = 10.0  # seconds of service that show that all is well again
FORGIVES_ONE = 1.0  # seconds of service that make up for one earlier death
REST = 1.0  # seconds between the end of one recycling and the beginning of the next
REST_JITTER = 0.5
FAILED_AFTER = 3  # deaths in a row from which on a slot counts as failing


def count(failures: int, served: float) -> int:
    """Deaths in a row, this one included, after `failures` earlier ones and `served` seconds of service."""
    if served >= STABLE_AFTER:
        return 1
    return max(0, failures - int(served / FORGIVES_ONE)) + 1


def delay(failures: int, chance: float) -> float:
    """Seconds to wait after `failures` deaths in a row; `chance` in [0, 1) spreads it by a quarter either way."""
    if failures <= 1:
        return 0.0
    doubled = FIRST_DELAY * 2.0 ** min(failures - 2, 16)
    return min(LONGEST_DELAY, doubled) * (1 - JITTER + 2 * JITTER * chance)


def rest_of(chance: float) -> float:
    """Seconds after somebody has left in which nobody is recycled; `chance` in [0, 1) spreads it by half either way."""
    return REST * (1 - REST_JITTER + 2 * REST_JITTER * chance)
