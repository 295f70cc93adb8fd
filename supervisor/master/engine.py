"""Runs an app's two machines: news in, one at a time; commands out, each done before the next news is looked at.

Invariant: the machines' states change here alone, and no command's consequences can overtake the command after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from supervisor.fleet import records as seats
from supervisor.fleet.fleet import next_wake
from supervisor.fleet.fleet import step as step_fleet
from supervisor.kernel.reactor import Reactor, Timer
from supervisor.reload import records as rolls
from supervisor.reload.roll import step as step_roll

Event = seats.Event | rolls.Event
Command = seats.Command | rolls.Command


class Engine:
    """`do` carries out a command; `settle_down` is called whenever the queue has run empty."""

    def __init__(
        self, reactor: Reactor, fleet: seats.Fleet, do: Callable[[Command], None], settle_down: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._do = do
        self._settle_down = settle_down
        self._queue: deque[Event] = deque()
        self._is_running = False
        self._wake: Timer | None = None
        self.fleet = fleet
        self.roll = rolls.Roll(0, 0)

    def post(self, *events: Event) -> None:
        """Queue news, and run until nothing is left of it; from within a command: queue only."""
        self._queue.extend(events)
        if self._is_running:
            return
        self._is_running = True
        try:
            while self._queue:
                self._take(self._queue.popleft())
        finally:
            self._is_running = False
        self._arm()
        self._settle_down()

    def close(self) -> None:
        if self._wake is not None:
            self._wake.cancel()

    def _take(self, event: Event) -> None:
        now = self._reactor.now()
        commands: list[seats.Command] | list[rolls.Command]
        if isinstance(event, rolls.Event):
            self.roll, commands = step_roll(self.roll, event, now)
        else:
            self.fleet, commands = step_fleet(self.fleet, event, now)
        for command in commands:
            self._do(command)

    def _arm(self) -> None:
        """Wake when the fleet next waits for time to pass."""
        self.close()
        when = next_wake(self.fleet)
        self._wake = self._reactor.call_at(when, lambda: self.post(seats.Tick())) if when is not None else None
