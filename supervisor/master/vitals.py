"""Memory and CPU of workers, sampled by the master from /proc.

Invariant: one round costs a few microseconds a worker, and walks the page tables (PSS) of at most `PSS_A_ROUND`.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from supervisor.kernel import procfs
from supervisor.master.worker import Worker

PSS_A_ROUND = 2


class Vitals(Struct):
    """The last sample of one worker."""

    rss_bytes: int = 0
    pss_bytes: int = 0
    cpu_percent: float = 0.0
    cpu_seconds: float = 0.0
    at: float = 0.0


class Sampler:
    """Samples by worker number; forgets workers that are no longer asked for."""

    def __init__(self) -> None:
        self._known: dict[int, Vitals] = {}
        self._next_pss = 0

    def of(self, worker: Worker) -> Vitals:
        """What is known; of a worker never sampled, a first sample taken now."""
        known = self._known.get(worker.number)
        if known is None and worker.pid:
            known = self._known[worker.number] = Vitals()
            known.rss_bytes = procfs.rss_bytes(worker.pid) or 0
            known.pss_bytes = procfs.pss_bytes(worker.pid) or 0
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
        for _ in range(min(PSS_A_ROUND, len(alive))):
            self._next_pss = (self._next_pss + 1) % len(alive)
            worker = alive[self._next_pss]
            vitals = self._known[worker.number]
            vitals.pss_bytes = procfs.pss_bytes(worker.pid) or vitals.pss_bytes
