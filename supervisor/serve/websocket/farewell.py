"""Sends the clients of a leaving worker's open WebSockets away, spread over time: they don't all come back at once.

Invariant: one timer, whatever the number. Each connection is told once, within the time that was given.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable
from typing import Protocol

PACE = 0.01
"""Seconds for each connection: fewer than a hundred a second are sent away only where there are not more of them."""


class Leaver(Protocol):
    """An open connection; one that has closed meanwhile is told in vain."""

    def leave(self) -> None: ...


class Farewell:
    """Tell those that are open with `begin`, and later comers with `add`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Leaver] = deque()
        self._ends = loop.time()  # when the last of them should be told
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, leavers: Iterable[Leaver], longest: float) -> None:
        """Tell them in random order and at jittered intervals, within `longest` seconds, or sooner if they are few."""
        waiting = list(leavers)
        random.shuffle(waiting)
        self._waiting.extend(waiting)
        self._ends = self._loop.time() + min(longest, PACE * len(waiting))
        self._schedule()

    def add(self, leaver: Leaver) -> None:
        """Tell one more, as the last."""
        self._waiting.append(leaver)
        self._ends = max(self._ends, self._loop.time() + PACE)
        self._schedule()

    def stop(self) -> None:
        """Tell nobody any more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        if self._timer is None and self._waiting:
            left = max(0.0, self._ends - self._loop.time())
            pause = random.uniform(0.0, 2.0) * left / len(self._waiting)  # noqa: S311  # jitter, no secret
            self._timer = self._loop.call_later(min(left, pause), self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._waiting.popleft().leave()
        self._schedule()
