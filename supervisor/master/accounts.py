"""An app's counters over all workers it ever had.

Invariant: no total ever goes backwards: what a worker had counted is folded in once, when it has ended, from its row.
"""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.kernel.board import Cell
from supervisor.master.worker import Worker
from supervisor.messages.status import Totals


class Accounts:
    """Sums of the dead; `totals` adds the living."""

    def __init__(self) -> None:
        self._requests = 0
        self._shed = 0
        self._lost = 0
        self.restarts = 0
        self.by_slot: dict[int, int] = {}  # restarts

    def fold(self, worker: Worker) -> int:
        """Take over an ended worker's counters; returns how many requests were lost with it."""
        lost = worker.row[Cell.CUT] + worker.inflight
        self._requests += worker.row[Cell.STARTED]
        self._shed += worker.row[Cell.SHED]
        self._lost += lost
        return lost

    def restarted(self, slot: int) -> None:
        """A worker died that was to serve."""
        self.restarts += 1
        self.by_slot[slot] = self.by_slot.get(slot, 0) + 1

    def totals(self, living: Iterable[Worker]) -> Totals:
        rows = [worker.row for worker in living]
        return Totals(
            requests=self._requests + sum(row[Cell.STARTED] for row in rows),
            shed=self._shed + sum(row[Cell.SHED] for row in rows),
            lost=self._lost + sum(row[Cell.CUT] for row in rows),
            restarts=self.restarts,
        )
