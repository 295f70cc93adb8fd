"""Poison requests: which kind of request was with the worker whenever one died. Pure: deaths and time in, names out.

Invariant: a kind is called out once in an episode, which begins with its third death within a minute and ends when
it was in none for a minute. A kind that is in every death is no proof: a popular request is with most workers at any
time. What a worker was certainly running when it died counts alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

from msgspec import Struct

DEATHS = 3
WITHIN = 60.0  # seconds
_REMEMBERED = 32  # deaths; more in a minute tell nothing new

_ID = re.compile(
    r"[0-9]+"
    r"|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"  # RFC 9562
    r"|(?=[0-9a-fA-F]*[0-9])[0-9a-fA-F]{16,}"  # digests, object ids
    r"|[0-9A-HJKMNP-TV-Z]{26}"  # ULIDs
)


class Death(Struct, frozen=True):
    """One worker's, `at` a time of CLOCK_MONOTONIC, with the signatures of what it had in hand."""

    at: float
    present: frozenset[str]


class Poison(Struct, frozen=True):
    """The deaths of the last minute, the oldest first, and the signatures that were called out in their episode."""

    deaths: tuple[Death, ...] = ()
    told: frozenset[str] = frozenset()


def signature(method: str, path: str) -> str:
    """A request's kind: its method and its path, in which numbers, UUIDs and long hexadecimal parts become `{id}`."""
    path = path.partition("?")[0]
    return f"{method} " + "/".join("{id}" if _ID.fullmatch(part) else part for part in path.split("/"))


def died(state: Poison, present: Collection[str], now: float) -> tuple[Poison, tuple[str, ...]]:
    """A worker has died with these signatures in hand: returns those that are to be called out now, in order."""
    recent = [death for death in state.deaths if now - death.at < WITHIN]
    deaths = (*recent, Death(now, frozenset(present)))[-_REMEMBERED:]
    seen = Counter(each for death in deaths for each in death.present)
    told = state.told & {each for death in recent for each in death.present}
    fresh = sorted(each for each in frozenset(present) - told if seen[each] >= DEATHS)
    return Poison(deaths, told | frozenset(fresh)), tuple(fresh)
