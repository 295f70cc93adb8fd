"""The end of connections whose deadline has passed.

Invariant: a sweep holds the loop up for a millisecond, however many connections there are and however many came at the
same moment, to expire at the same moment: to look at ten thousand deadlines takes half of one, and the overdue are
ended a hundred or so in each turn of the loop, with everybody else's turn in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

AT_ONCE = 128


class Expiring(Protocol):
    """What has a deadline, in ticks."""

    expires: int

    def expire(self) -> None:
        """The deadline has passed."""


class Sweep:
    """Ends those of `connections` that are overdue. They may come and go meanwhile, or be given more time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: Iterable[Expiring]) -> None:
        self._loop = loop
        self._connections = connections

    def run(self, tick: int) -> None:
        """End, or begin to end, all whose deadline is no later than `tick`."""
        overdue = [each for each in self._connections if each.expires <= tick]
        if overdue:
            self._end(overdue, tick)

    def _end(self, overdue: list[Expiring], tick: int) -> None:
        for each in overdue[:AT_ONCE]:
            if each.expires <= tick:
                each.expire()
        if len(overdue) > AT_ONCE:
            self._loop.call_soon(self._end, overdue[AT_ONCE:], tick)
