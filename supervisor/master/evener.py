"""Has connections moved from workers that have many, or no room, to the others.

Invariants:
- Who is to lend how many is decided by `fleet.evenness`, from what the board says of each worker.
- Nothing is moved while workers come and go: a roll, or a worker that leaves, has its own moving.
- Looking reads five cells of each worker; it stops when there is no worker left to look at.
"""

from __future__ import annotations

from typing import Protocol

from supervisor.fleet.evenness import Evenness, Load, step
from supervisor.kernel.board import Cell, WorkerState
from supervisor.kernel.reactor import Reactor, Timer
from supervisor.master.engine import Engine
from supervisor.master.relay import Relay
from supervisor.master.worker import Worker

LOOK_EVERY = 0.25  # seconds
LOOK_AGAIN = 0.1  # seconds, when it has just become uneven
LATE = 200.0  # milliseconds of lag, with which nobody is to take anything, whatever he says of himself


class EvenerOwner(Protocol):
    """The app whose workers they are."""

    workers: dict[int, Worker]
    engine: Engine
    relay: Relay


class Evener:
    """Idle until `begin`."""

    def __init__(self, owner: EvenerOwner, reactor: Reactor) -> None:
        self._owner = owner
        self._reactor = reactor
        self._timer: Timer | None = None
        self._state = Evenness()

    def begin(self) -> None:
        """There is a worker. Harmless when it has begun."""
        if self._timer is None:
            pause = LOOK_AGAIN if self._state.is_in_doubt else LOOK_EVERY
            self._timer = self._reactor.call_later(pause, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._owner.workers:
            return
        self._even_out()
        self.begin()

    def _even_out(self) -> None:
        owner = self._owner
        if owner.engine.roll.is_under_way or owner.engine.fleet.leaving or owner.relay.has_trial:
            self._state = Evenness()
            return
        self._state, lending = step(self._state, self._loads(), self._reactor.now())
        if lending is not None:
            owner.relay.even_out(lending, owner.workers)

    def _loads(self) -> dict[int, Load]:
        """Of those who serve, but for the ones who would take and are blocked just now."""
        now, loads = self._reactor.now(), {}
        for number, each in self._owner.workers.items():
            row = each.row
            has_room = row[Cell.STATE] == WorkerState.READY
            if each.is_admitted and not (has_room and each.lag_ms(now) > LATE):
                loads[number] = Load(row[Cell.CONNECTIONS], row[Cell.HANDED_OVER], has_room)
        return loads
