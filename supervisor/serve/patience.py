"""How long requests of one worker may wait for their turn, who goes first, and how many were turned away.

Invariants:
- Only requests that no app code has seen are turned away, and never one of `exempt_paths`.
- What is decided is decided by `watch.codel`; here it is given its clock, and what becomes of it is counted.
- An episode of turning away is told in one line, when it is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from supervisor.kernel.door import silence
from supervisor.watch.codel import Queue, step

if TYPE_CHECKING:
    from supervisor.serve.http1.connection import Connection

EPISODE = 2.0  # seconds without anybody turned away, and it is over

OnTurnedAway = Callable[[int, float], None]
"""Told at the end of an episode: how many requests, in how many seconds."""


class Patience:
    """Of one worker. `exempt` are paths as they come in a request's target."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout: float, exempt: frozenset[bytes], tell: OnTurnedAway
    ) -> None:
        self.exempt = exempt
        self._loop = loop
        self._tell = tell
        self._queue = Queue(timeout)
        self._count = 0
        self._began = self._last = 0.0

    @property
    def is_overloaded(self) -> bool:
        """The newest go first."""
        return self._queue.is_overloaded

    def is_over(self, since: float, now: float) -> bool:
        """Whether the one that waits longest, and came at `since`, is to be turned away. If so, ask with the next."""
        self._queue, is_over = step(self._queue, now - since, now)
        return is_over

    def relax(self, now: float) -> None:
        """Nobody waits."""
        if self._queue.stands_at is not None:
            self._queue, _ = step(self._queue, 0.0, now)

    def count(self) -> None:
        """One was turned away."""
        self._last = now = monotonic()
        if not self._count:
            self._began = now
            self._loop.call_later(EPISODE, self._look)
        self._count += 1

    def _look(self) -> None:
        if (left := self._last + EPISODE - monotonic()) > 0:
            self._loop.call_later(left, self._look)
            return
        self._tell(self._count, self._last - self._began)
        self._count = 0


def arrival(connection: Connection, since: float) -> float:
    """When the last bytes of a connection came, by time.monotonic, as far as the kernel tells; never after `since`."""
    sock = connection.transport.get_extra_info("socket")
    return since if sock is None else min(since, monotonic() - silence(sock))
