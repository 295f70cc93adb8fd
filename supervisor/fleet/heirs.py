"""Who takes over the connections of workers that leave, and how many each. Pure.

Invariant: whenever some worker is ready, somebody takes them; and the shares together hold all there is to take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from supervisor.fleet.records import Fleet

NOTHING = 0
"""The share of those who only take what others leave lying."""


def shares(fleet: Fleet, toward: int | None, connections: Mapping[int, int]) -> dict[int, int]:
    """The ready workers, by id, with how many connections each may have before it lets others take more.

    Those of the generation `toward`, the one that replaces others, share alike what they have and what is about to
    leave; while there is none of them, all do. `connections` are the open ones of each worker.
    """
    ready = [slot.holder for slot in fleet.slots.values() if slot.holder is not None and slot.holder.is_ready]
    ready = [worker for worker in ready if worker.id in connections]
    first = [worker.id for worker in ready if worker.generation == toward] or [worker.id for worker in ready]
    if not first:
        return {}
    each = -(-_sum(connections, (*first, *fleet.leaving)) // len(first))
    return {worker.id: max(1, each) if worker.id in first else NOTHING for worker in ready}


def _sum(connections: Mapping[int, int], workers: Iterable[int]) -> int:
    return sum(connections.get(worker, 0) for worker in workers)
