"""WSGI requests on the event loop itself, and the line that they stand in when it comes late.

Invariants: while the loop is on time a request is run where it is read, and nothing is measured. Once it has come late,
or connections have waited long for it, requests stand in line, and a turn of the loop runs them for `SLICE` seconds,
about. Who waits for too long is turned away before any app code runs. That ends after `CALM` turns with time left.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from supervisor.serve.line import Line
from supervisor.serve.patience import Patience

if TYPE_CHECKING:
    from supervisor.serve.wsgi.exchange import WsgiExchange

SLICE = 0.05  # seconds of app code in a turn of the loop, about, while more waits
LATE = 2 * SLICE  # seconds that the loop may be late before turns are measured
CALM = 64  # turns in a row within a `SLICE`, after which they are not measured any more


class Inline:
    """Runs exchanges; while it is not `is_careful`, whoever comes may run by itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: Patience) -> None:
        self.is_careful = False
        self._loop = loop
        self._line: Line[WsgiExchange] = Line(patience)
        self._is_on_its_way = False
        self._calm = 0

    @property
    def has_line(self) -> bool:
        """Whether somebody waits for their turn."""
        return bool(self._line)

    def feel(self, lag: float) -> None:
        """The loop has come so many seconds late."""
        if lag > LATE:
            self.is_careful = True
            self._calm = 0

    def run(self, exchange: WsgiExchange) -> None:
        """Now, or, while it is careful, in its turn."""
        if not self.is_careful:
            exchange.run_inline()
            return
        self._line.add([exchange])
        self._take_turns()

    def clear(self) -> None:
        """Nobody in line has a turn any more."""
        self._line.clear()

    def _take_turns(self) -> None:
        if not self._is_on_its_way:
            self._is_on_its_way = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_on_its_way = False
        ends = monotonic() + SLICE
        while self._line and monotonic() < ends:
            for exchange in self._line.take(1):
                exchange.run_inline()
        if self._line:
            self._calm = 0
            self._take_turns()
        else:
            self._calm += 1
            self.is_careful = self._calm < CALM
