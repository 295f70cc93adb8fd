"""Whether this worker takes connections, and what is told about it: room, and a circuit breaker on the loop's lag.

Invariants:
- The board says SATURATED exactly while the worker does not take all comers. A full worker is worth a line only after
  `WORTH_TELLING`, for fullness comes and goes; a tripped breaker at once. Each line has its counterpart.
- What trips and closes the breaker is decided by `watch.breaker` alone. An open one holds the service, whose room the
  acceptor and the inheritor ask for; a half-open one lets a connection in at each tick.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from supervisor.kernel.board import Cell, Row, WorkerState
from supervisor.messages.wire import Recovered, Saturated
from supervisor.watch.breaker import Breaker, Phase, step
from supervisor.worker.acceptor import Acceptor

WORTH_TELLING = 1.0  # seconds without room


class Held(Protocol):
    """The service, as far as it is held here."""

    is_held: bool

    @property
    def crowd(self) -> str: ...

    def feel(self, lag: float) -> None: ...


class Admission:
    """`tell` reaches the master, `show` is the worker's title in `ps`. Idle until `begin`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        row: Row,
        tell: Callable[[Saturated | Recovered], None],
        show: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._row = row
        self._tell = tell
        self._show = show
        self._service: Held
        self._acceptor: Acceptor
        self._on_room: Callable[[], None]
        self._breaker: Breaker | None = None
        self._began = 0.0
        self._is_door_open = self._is_taking = True
        self._shut_since = 0.0
        self._is_told = False
        self._was_late = False  # what shut it was the breaker
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, service: Held, acceptor: Acceptor, lag_limit: float, on_room: Callable[[], None]) -> None:
        """Judge from now on. `on_room` has the service's takers look again."""
        self._service, self._acceptor, self._on_room = service, acceptor, on_room
        self._breaker = Breaker(lag_limit)
        self._began = time.monotonic()

    def end(self) -> None:
        """The worker leaves, and says no more about connections."""
        self._breaker = None
        if self._timer is not None:
            self._timer.cancel()

    def door(self, is_open: bool) -> None:
        """The acceptor has begun, or ceased, to take connections."""
        self._is_door_open = is_open
        self._judge()

    def feel(self, lag: float, now: float) -> None:
        """A tick of the loop came `lag` seconds late, at `now`."""
        before = self._breaker
        if before is not None:
            self._service.feel(lag)
        if before is None or now - lag < self._began:  # what held it up was there before
            return
        after = self._breaker = step(before, lag, now)
        if after.phase is Phase.HALF_OPEN:
            self._acceptor.ration(1)
        if after.phase is not before.phase:
            self._change(after)
        if after.phase is Phase.OPEN:
            self._acceptor.take_forsaken()

    def _change(self, breaker: Breaker) -> None:
        is_held = self._service.is_held = breaker.phase is Phase.OPEN
        if is_held:
            self._acceptor.pause()
        if breaker.phase is not Phase.HALF_OPEN:  # the trial is over; if it has failed, who is forsaken is taken still
            self._acceptor.ration(None)
        self._judge()
        if is_held:
            self._was_late = True
        if is_held and not self._is_told:
            self._say_shut(f"its event loop was {breaker.worst:.2f} s late, lag_limit is {breaker.limit:g} s")
        if not is_held:
            self._on_room()

    def _judge(self) -> None:
        """Tell the board, and after a while the master."""
        breaker = self._breaker
        if breaker is None:
            return
        is_taking = self._is_door_open and breaker.phase is Phase.CLOSED
        if is_taking == self._is_taking:
            return
        self._is_taking = is_taking
        self._row[Cell.STATE] = WorkerState.READY if is_taking else WorkerState.SATURATED
        if not is_taking:
            self._shut_since = self._loop.time()
            self._timer = self._loop.call_later(WORTH_TELLING, self._tell_full)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_told:
            self._say_open()
        self._was_late = False

    def _tell_full(self) -> None:
        self._say_shut(self._service.crowd)

    def _say_shut(self, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_told = True
        self._tell(Saturated(why))
        self._show("saturated")

    def _say_open(self) -> None:
        self._is_told = False
        why = "its event loop keeps time again" if self._was_late else "it has room again"
        self._tell(Recovered(self._loop.time() - self._shut_since, why))
        self._show("ready")
