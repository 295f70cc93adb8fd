"""An app's hand-over queue, and who is told to give and to take there.

Invariants:
- The queue is open from the app's making to its end, whoever dies: what was put in stays until somebody takes it.
- Nobody is asked to give while there is nobody to take.
- Nothing passes through the master: it only tells workers of each other.
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.fleet.heirs import shares
from supervisor.fleet.records import Fleet
from supervisor.kernel.board import Cell
from supervisor.kernel.channel import Channel
from supervisor.master.worker import Worker


class Relay:
    """`giving_end` and `taking_end` are the queue's two ends, for workers to get copies of."""

    def __init__(self) -> None:
        self._give, self._take = Channel.pair()
        self._toward: int | None = None  # the generation that has replaced somebody last
        self._told: dict[int, int] = {}  # shares, by worker

    @property
    def giving_end(self) -> int:
        return self._give.fileno()

    @property
    def taking_end(self) -> int:
        return self._take.fileno()

    def leave(self, leaver: Worker, fleet: Fleet, workers: Mapping[int, Worker]) -> bool:
        """This worker is about to leave: tell the others their shares. Returns whether it has somebody to give to."""
        slot = fleet.slots.get(leaver.slot)
        if slot is not None and slot.holder is not None and slot.is_ready:
            self._toward = slot.holder.generation
        self._tell(shares(fleet, self._toward, _connections(workers)), workers)
        return bool(self._told)

    def settle(self, fleet: Fleet, workers: Mapping[int, Worker]) -> None:
        """Tell those who are ready now, or ready no more; the shares of the others stay as they are."""
        wanted = shares(fleet, self._toward, _connections(workers))
        if wanted.keys() != self._told.keys():
            self._tell(wanted, workers)

    def close(self) -> None:
        """The app is no more."""
        self._give.close()
        self._take.close()

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
