"""The WSGI app's threads, looked at with every heartbeat: who is stuck is told to the master, or stands on the board.

Invariant: a look takes no lock, and costs nothing where threads are not used. It is the loop that looks; when it can't,
because a thread keeps the interpreter to itself, there is no heartbeat either.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from supervisor.config.settings import AppSettings
from supervisor.kernel.board import Cell, Row
from supervisor.messages.stacks import Serving
from supervisor.messages.wire import Stuck, Unstuck
from supervisor.serve.wsgi.pool import Pool
from supervisor.watch.threads import Held, Thread, look
from supervisor.worker.witness import serving

Tell = Callable[[Stuck | Unstuck], None]


class ThreadWatch:
    """Of one pool."""

    def __init__(self, pool: Pool, row: Row, settings: AppSettings, tell: Tell) -> None:
        self._pool = pool
        self._row = row
        self._warn = settings.request_warn or math.inf
        self._tell = tell
        self._held: Mapping[str, Held] = {}
        self._told: dict[str, Serving] = {}

    def look(self, now: float, gap: float) -> None:
        """At monotonic time `now`, so many seconds after the last time."""
        jobs = self._pool.held()
        if not jobs and not self._held:
            return
        threads = {name: Thread(job.since, job.progress, job.waits_for_client) for name, job in jobs.items()}
        found = look(self._held, threads, self._pool.size, self._warn, now, gap)
        self._held = found.held
        self._row[Cell.STUCK_SINCE_NS] = int(found.all_since * 1e9)
        for name, seconds in found.over.items():
            self._tell(Unstuck(name, seconds, self._told.pop(name)))
        for name in found.stuck:
            self._told[name] = serving(jobs[name], time.monotonic())
            self._tell(Stuck(name, now - found.held[name].since, self._told[name]))
