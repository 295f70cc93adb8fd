"""Memory and CPU of workers, sampled by the master from /proc.

Invariants:
- A round costs a few microseconds a worker.
- Page tables are walked (for PSS and USS) one worker after the other, the one that has waited longest first, and all
  walks of an app together take no more than `WALK_SHARE` of the time, however large its workers are: a worker can't
  map memory while it is walked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from msgspec import Struct

from supervisor.kernel import procfs
from supervisor.master.worker import Worker

WALK_SHARE = 0.001  # of the time
WALKS_AT_ONCE = 0.02  # seconds of walking that may be saved up, for a start or a roll that brings many at once
WALK_EVERY = 5.0  # seconds; what has been walked since is not walked again


class Vitals(Struct):
    """The last sample of one worker."""

    rss_bytes: int = 0
    pss_bytes: int = 0
    uss_bytes: int = 0
    cpu_percent: float = 0.0
    cpu_seconds: float = 0.0
    at: float = 0.0
    walked_at: float = float("-inf")


class Sampler:
    """Samples by worker number; forgets workers that are no longer asked for."""

    def __init__(self) -> None:
        self._known: dict[int, Vitals] = {}
        self._credit = WALKS_AT_ONCE  # seconds of walking that are due; below zero after a walk that took longer
        self._credited_at = time.monotonic()

    def of(self, worker: Worker) -> Vitals:
        """What is known; of a worker never sampled, a first sample taken now."""
        known = self._known.get(worker.number)
        if known is None and worker.pid:
            known = self._known[worker.number] = Vitals()
            known.rss_bytes = procfs.rss_bytes(worker.pid) or 0
            self._walk([worker])
        return known or Vitals()

    def sample(self, workers: Sequence[Worker], now: float) -> None:
        """One round over all workers that have a process."""
        alive = [worker for worker in workers if worker.pid]
        self._known = {worker.number: self._known.get(worker.number, Vitals()) for worker in alive}
        for worker in alive:
            vitals = self._known[worker.number]
            vitals.rss_bytes = procfs.rss_bytes(worker.pid) or vitals.rss_bytes
            used = procfs.cpu_seconds(worker.pid)
            if used is not None:
                if vitals.at:
                    vitals.cpu_percent = max(0.0, 100 * (used - vitals.cpu_seconds) / max(now - vitals.at, 1e-3))
                vitals.cpu_seconds, vitals.at = used, now
        self._walk(sorted(alive, key=lambda worker: self._known[worker.number].walked_at))

    def _walk(self, workers: Sequence[Worker]) -> None:
        """The page tables of as many of these as is affordable now."""
        now = time.monotonic()
        self._credit = min(WALKS_AT_ONCE, self._credit + WALK_SHARE * (now - self._credited_at))
        self._credited_at = now
        for worker in workers:
            vitals = self._known[worker.number]
            if self._credit <= 0 or now - vitals.walked_at < WALK_EVERY:
                return
            before = time.monotonic()
            found = procfs.footprint(worker.pid)
            vitals.walked_at = time.monotonic()
            self._credit -= vitals.walked_at - before
            if found is not None:
                vitals.pss_bytes, vitals.uss_bytes = found
