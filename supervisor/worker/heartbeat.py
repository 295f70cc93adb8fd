"""The worker's pulse on the board: that its loop turns, and how late it turns.

Invariant: the tick is the only periodic work of an idle worker. It writes to the board, looks at the threads, if there
are any, and then tells one listener. The board has a heartbeat for as long as the loop is to turn; 0 before and after.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from supervisor.config.settings import AppSettings
from supervisor.kernel.board import Cell, Row
from supervisor.serve.wsgi.pool import Pool
from supervisor.watch.stall import BEAT
from supervisor.worker.threads import Tell, ThreadWatch

INTERVAL_NS = int(BEAT * 1e9)  # between ticks
SPAN_NS = 10_000_000_000  # what one entry of the maximum's history stands for
REMEMBERED = 6  # entries: the maximum shown is that of the last minute

OnTick = Callable[[float, float], None]
"""Called with seconds: how late the tick came, and when, on CLOCK_MONOTONIC."""


class Heartbeat:
    """Writes `HEARTBEAT_NS`, `LAG_NS` and `LAG_MAX_NS` on every tick."""

    def __init__(self, loop: asyncio.AbstractEventLoop, row: Row) -> None:
        self._loop = loop
        self._row = row
        self._due = time.monotonic_ns()
        self._maxima: deque[int] = deque([0], maxlen=REMEMBERED)
        self._span_ends = self._due + SPAN_NS
        self._timer: asyncio.TimerHandle | None = None
        self._threads: ThreadWatch | None = None
        self._on_tick: OnTick | None = None

    def tell(self, on_tick: OnTick) -> None:
        """Have each tick told, from the next one on."""
        self._on_tick = on_tick

    def lag(self) -> float:
        """Seconds by which the next tick is late already."""
        return (time.monotonic_ns() - self._due) / 1e9

    def start(self) -> None:
        self._due = time.monotonic_ns()
        self._tick()

    def look_after(self, pool: Pool | None, settings: AppSettings, tell: Tell) -> None:
        """Look at the threads of this pool with each tick, too."""
        self._threads = ThreadWatch(pool, self._row, settings, tell) if pool is not None else None

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._row[Cell.HEARTBEAT_NS] = 0

    def _tick(self) -> None:
        now = time.monotonic_ns()  # the loop's own clock counts whole milliseconds
        lag = max(0, now - self._due)
        if now >= self._span_ends:
            self._maxima.append(0)
            self._span_ends = now + SPAN_NS
        if lag > self._maxima[-1]:
            self._maxima[-1] = lag
        row = self._row
        row[Cell.HEARTBEAT_NS] = now
        row[Cell.LAG_NS] = lag
        row[Cell.LAG_MAX_NS] = max(self._maxima)
        if self._threads is not None:
            self._threads.look(now / 1e9, (lag + INTERVAL_NS) / 1e9)
        self._due = now + INTERVAL_NS
        self._timer = self._loop.call_later(INTERVAL_NS / 1e9, self._tick)
        if self._on_tick is not None:
            self._on_tick(lag / 1e9, now / 1e9)
