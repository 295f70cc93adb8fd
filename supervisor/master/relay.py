"""An app's hand-over queue, and who is told to give and to take there.

Invariants:
- The queue is open from the app's making to its end, whoever dies: what was put in stays until somebody takes it.
- Nobody is asked to give while there is nobody to take.
- Nothing passes through the master: it only tells workers of each other.
- While a worker is on trial it takes first: it is lent its part of the connections, and the others are not to take
  them back at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from supervisor.fleet.evenness import Lending
from supervisor.fleet.heirs import NOTHING, shares
from supervisor.fleet.records import Fleet
from supervisor.kernel.board import Cell
from supervisor.kernel.channel import Channel
from supervisor.master import record
from supervisor.master.worker import Worker


class Relay:
    """`giving_end` and `taking_end` are the queue's two ends, for workers to get copies of."""

    def __init__(self) -> None:
        self._give, self._take = Channel.pair()
        self._toward: int | None = None  # the generation that has replaced somebody last
        self._told: dict[int, int] = {}  # shares, by worker
        self._lenders: set[int] = set()  # to even out
        self._trial: tuple[int, int] | None = None  # the worker on trial, and its share

    @property
    def giving_end(self) -> int:
        return self._give.fileno()

    @property
    def taking_end(self) -> int:
        return self._take.fileno()

    def state(self) -> record.Relay:
        """All that a master which goes on with it has to know."""
        return record.Relay(give=self.giving_end, take=self.taking_end, toward=self._toward)

    def resume(self, kept: record.Relay) -> None:
        """Go on with the queue of an earlier master. Everybody is told anew who takes."""
        self.close()
        self._give, self._take = Channel.from_fd(kept.give), Channel.from_fd(kept.take)
        self._toward = kept.toward

    def leave(self, leaver: Worker, fleet: Fleet, workers: Mapping[int, Worker]) -> bool:
        """This worker is about to leave: tell the others their shares. Returns whether it has somebody to give to."""
        slot = fleet.slots.get(leaver.slot)
        if slot is not None and slot.holder is not None and slot.is_ready:
            self._toward = slot.holder.generation
        self._tell(self._wanted(fleet, workers), workers)
        return bool(self._told)

    def lend(self, canary: Worker, part: float, workers: Mapping[int, Worker]) -> None:
        """Have the worker on trial get its part, in (0, 1), of the connections that the others have."""
        lenders = [each for each in workers.values() if each.is_admitted and not each.is_leaving and each is not canary]
        counts = {each: each.row[Cell.CONNECTIONS] for each in lenders}
        left = int(part * sum(counts.values()))
        self._trial = canary.number, canary.row[Cell.CONNECTIONS] + left
        self._tell(dict.fromkeys(self._told, NOTHING) | dict([self._trial]), workers)
        for lender in sorted(lenders, key=counts.__getitem__, reverse=True):
            count = min(left, math.ceil(part * counts[lender]))
            if count:
                lender.lend(count, self.giving_end)
                left -= count

    def end_trial(self, fleet: Fleet, workers: Mapping[int, Worker]) -> None:
        """Nobody lends any more; who takes is as without a trial."""
        if self._trial is None:
            return
        self._trial = None
        for worker in workers.values():
            if worker.is_admitted and not worker.is_leaving:
                worker.lend(0, self.giving_end)
        self._tell(self._wanted(fleet, workers), workers)

    @property
    def has_trial(self) -> bool:
        return self._trial is not None

    def even_out(self, lending: Lending, workers: Mapping[int, Worker]) -> None:
        """Have some lend to the others, and nobody else any more."""
        for number in (self._lenders - lending.lenders.keys()) & workers.keys():
            workers[number].lend(0, self.giving_end)
        self._lenders = set(lending.lenders)
        self._tell({number: NOTHING if number in lending.lenders else lending.share for number in self._told}, workers)
        for number, count in lending.lenders.items():
            workers[number].lend(count, self.giving_end)

    def settle(self, fleet: Fleet, workers: Mapping[int, Worker]) -> None:
        """Tell those who are ready now, or ready no more; the shares of the others stay as they are."""
        wanted = self._wanted(fleet, workers)
        if wanted.keys() != self._told.keys():
            self._tell(wanted, workers)

    def close(self) -> None:
        """The app is no more."""
        self._give.close()
        self._take.close()

    def _wanted(self, fleet: Fleet, workers: Mapping[int, Worker]) -> dict[int, int]:
        wanted = shares(fleet, self._toward, _connections(workers))
        if self._trial is None or self._trial[0] not in workers:
            return wanted
        return dict.fromkeys(wanted, NOTHING) | dict([self._trial])

    def _tell(self, wanted: dict[int, int], workers: Mapping[int, Worker]) -> None:
        told, self._told = self._told, wanted
        for number, share in wanted.items():
            if told.get(number) != share:
                workers[number].inherit(share)
        for number in told.keys() - wanted.keys():
            if number in workers and not workers[number].is_leaving:
                workers[number].inherit(None)


def _connections(workers: Mapping[int, Worker]) -> dict[int, int]:
    return {number: worker.row[Cell.CONNECTIONS] for number, worker in workers.items()}
