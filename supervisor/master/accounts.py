"""An app's counters over all workers it ever had.

Invariant: no total ever goes backwards: what a worker had counted is folded in once, when it has ended, from its row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec import Struct
from msgspec.structs import asdict

from supervisor.kernel.board import ENDED_BY, Cell, Row
from supervisor.master import record
from supervisor.master.worker import Worker
from supervisor.messages.status import Totals
from supervisor.watch.evidence import Answers


class Counts(Struct, frozen=True):
    """Of one worker or several. `reset`: requests that were under way in workers that died."""

    requests: int = 0
    completed: int = 0
    cut: int = 0
    reset: int = 0
    errors: int = 0
    shed: int = 0
    handed_over: int = 0
    drained: int = 0
    connections_cut: int = 0

    @classmethod
    def of(cls, row: Row) -> Counts:
        """A living worker's, now."""
        return cls(
            requests=row[Cell.STARTED],
            completed=row[Cell.FINISHED],
            cut=row[Cell.CUT],
            errors=row[Cell.ANSWERS_5XX],
            shed=row[Cell.SHED],
            handed_over=row[Cell.HANDED_OVER],
            drained=row[Cell.DRAINED],
            connections_cut=row[Cell.CONNECTIONS_CUT],
        )

    @classmethod
    def of_dead(cls, worker: Worker) -> Counts:
        """All that a worker leaves behind."""
        return cls.of(worker.row) + cls(reset=worker.inflight)

    @classmethod
    def resumed(cls, kept: record.Counters) -> Counts:
        """As an earlier master has written them down."""
        return cls(**{name: kept[name] for name in cls.__struct_fields__ if name in kept})

    @property
    def answers(self) -> Answers:
        """What the app has answered; an answer that broke off is an error, too."""
        return Answers(self.completed + self.cut, self.errors + self.cut)

    def __add__(self, more: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(more, name) for name in self.__struct_fields__))

    def __sub__(self, less: Counts) -> Counts:
        return Counts(*(getattr(self, name) - getattr(less, name) for name in self.__struct_fields__))


class Accounts:
    """Sums of the dead, in all and by generation; the living are added when they are asked for."""

    def __init__(self) -> None:
        self._dead: dict[int, Counts] = {}
        self._forgotten = Counts()  # of generations that nobody asks for any more
        self._ended = dict.fromkeys(ENDED_BY, 0)
        self.restarts = 0
        self.stalls = 0
        self.by_slot: dict[int, int] = {}  # restarts

    def state(self) -> record.Accounts:
        """All that a master which goes on with them has to know."""
        return record.Accounts(
            dead={generation: asdict(counts) for generation, counts in self._dead.items()},
            forgotten=asdict(self._forgotten),
            ended=dict(self._ended),
            restarts=self.restarts,
            stalls=self.stalls,
            by_slot=dict(self.by_slot),
        )

    def resume(self, kept: record.Accounts) -> None:
        """Go on with an earlier master's."""
        self._dead = {generation: Counts.resumed(counts) for generation, counts in kept.dead.items()}
        self._forgotten = Counts.resumed(kept.forgotten)
        self._ended |= {name: kept.ended[name] for name in self._ended if name in kept.ended}
        self.restarts, self.stalls, self.by_slot = kept.restarts, kept.stalls, dict(kept.by_slot)

    def fold(self, worker: Worker) -> int:
        """Take over an ended worker's counters; returns how many requests were lost with it."""
        left = Counts.of_dead(worker)
        self._dead[worker.generation] = self._dead.get(worker.generation, Counts()) + left
        for name, cell in ENDED_BY.items():
            self._ended[name] += worker.row[cell]
        return left.cut + left.reset

    def keep_only(self, generations: Collection[int]) -> None:
        """The others need not be told apart any more."""
        for generation in self._dead.keys() - set(generations):
            self._forgotten += self._dead.pop(generation)

    def restarted(self, slot: int) -> None:
        """A worker died that was to serve."""
        self.restarts += 1
        self.by_slot[slot] = self.by_slot.get(slot, 0) + 1

    def of(self, generation: int, workers: Iterable[Worker]) -> Counts:
        """One generation's, of its dead and of those among the living `workers`."""
        living = (worker for worker in workers if worker.generation == generation)
        return _sum(living, self._dead.get(generation, Counts()))

    def all(self, living: Iterable[Worker]) -> Counts:
        """Of everybody there ever was."""
        return _sum(living, sum(self._dead.values(), self._forgotten))

    def ended(self, living: Iterable[Worker]) -> dict[str, int]:
        """What has ended requests and connections, by the names of `ENDED_BY`."""
        rows = [worker.row for worker in living]
        return {name: count + sum(row[ENDED_BY[name]] for row in rows) for name, count in self._ended.items()}

    def totals(self, living: Iterable[Worker]) -> Totals:
        counts = self.all(living)
        lost = counts.cut + counts.reset
        return Totals(requests=counts.requests, shed=counts.shed, lost=lost, restarts=self.restarts, stalls=self.stalls)


def _sum(living: Iterable[Worker], dead: Counts) -> Counts:
    return sum((Counts.of(worker.row) for worker in living), dead)
