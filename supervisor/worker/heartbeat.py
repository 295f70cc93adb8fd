"""The worker's pulse on the board: that its loop turns, and how late it turns.

Invariant: the tick is the only periodic work of an idle worker, and it writes to the board alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from supervisor.kernel.board import Cell, Row

INTERVAL = 0.1  # seconds between ticks
SPAN = 10.0  # seconds that one entry of the maximum's history stands for
REMEMBERED = 6  # entries: the maximum shown is that of the last minute


class Heartbeat:
    """Writes `HEARTBEAT_NS`, `LAG_NS` and `LAG_MAX_NS` on every tick."""

    def __init__(self, loop: asyncio.AbstractEventLoop, row: Row) -> None:
        self._loop = loop
        self._row = row
        self._due = loop.time()
        self._maxima: deque[int] = deque([0], maxlen=REMEMBERED)
        self._span_ends = self._due + SPAN
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due = self._loop.time()
        self._tick()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        now = self._loop.time()
        lag = max(0, int((now - self._due) * 1e9))
        if now >= self._span_ends:
            self._maxima.append(0)
            self._span_ends = now + SPAN
        if lag > self._maxima[-1]:
            self._maxima[-1] = lag
        row = self._row
        row[Cell.HEARTBEAT_NS] = time.monotonic_ns()
        row[Cell.LAG_NS] = lag
        row[Cell.LAG_MAX_NS] = max(self._maxima)
        self._due = now + INTERVAL
        self._timer = self._loop.call_at(self._due, self._tick)
