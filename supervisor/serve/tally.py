"""Counts one worker's connections and requests, on the board and for admission.

Invariant: every request that `STARTED` counts is counted once more, by `FINISHED` or by `CUT`, and leaves `inflight`
once; the board is written at each step, so the master's arithmetic holds for a worker that dies in between.
"""

from __future__ import annotations

from collections.abc import Callable

from supervisor.kernel.board import Cell, Row
from supervisor.serve.limits import UNLIMITED

# Plain integers: indexing a memoryview by an IntEnum costs three times as much.
_CONNECTIONS = int(Cell.CONNECTIONS)
_ACCEPTED = int(Cell.ACCEPTED)
STARTED = int(Cell.STARTED)
FINISHED = int(Cell.FINISHED)
_CUT = int(Cell.CUT)
_ANSWERS_4XX = int(Cell.ANSWERS_4XX)
_ANSWERS_5XX = int(Cell.ANSWERS_5XX)
_SHED = int(Cell.SHED)
_BAD_REQUESTS = int(Cell.BAD_REQUESTS)
_HANDED_OVER = int(Cell.HANDED_OVER)
_DRAINED = int(Cell.DRAINED)
_CONNECTIONS_CUT = int(Cell.CONNECTIONS_CUT)


class Tally:
    """The only writer of its cells. `on_room` is called whenever `inflight` falls below `capacity`, which is of
    requests, and when a connection may be opened again that could not."""

    __slots__ = (
        "_is_crowded",
        "_on_room",
        "capacity",
        "connections",
        "finished",
        "inflight",
        "on_error",
        "places",
        "row",
        "started",
    )

    def __init__(self, row: Row, capacity: int, on_room: Callable[[], None]) -> None:
        self.row = row
        self.capacity = capacity
        self.inflight = 0
        self.connections = 0
        self.places = UNLIMITED
        self._is_crowded = False
        self.started = row[STARTED]  # kept here too: reading a cell back costs as much as writing it
        self.finished = row[FINISHED]
        self._on_room = on_room
        self.on_error: Callable[[], None] | None = None  # called for each 5xx, and each answer that broke off

    def opened(self, *, accepted: bool = True) -> None:
        """A connection was taken, from a listening socket or, not `accepted`, from another worker."""
        self.connections += 1
        self.row[_ACCEPTED] += accepted
        self.row[_CONNECTIONS] = self.connections

    def closed(self) -> None:
        """A connection is gone."""
        self.connections -= 1
        self.row[_CONNECTIONS] = self.connections
        if self._is_crowded:
            self.made_place()

    def has_place(self, others: int) -> bool:
        """Whether one more connection may be open, with `others` that are not counted here; when not, `on_room` is
        called once it may."""
        if self.connections + others < self.places:
            return True
        if not self._is_crowded:
            self._is_crowded = True
            self.row[Cell.MAX_CONNECTIONS] += 1
        return False

    def made_place(self) -> None:
        """One connection is fewer."""
        if self._is_crowded:
            self._is_crowded = False
            self._on_room()

    def handed_over(self) -> None:
        """A connection is another worker's."""
        self.row[_HANDED_OVER] += 1
        self.closed()

    def drained(self) -> None:
        """A connection that was left to a leaving worker has ended as it should."""
        self.row[_DRAINED] += 1

    def cut_connection(self) -> None:
        """A connection was ended under its client."""
        self.row[_CONNECTIONS_CUT] += 1

    def start(self) -> None:
        """A request's head was read."""
        self.inflight += 1
        self.row[STARTED] = self.started = self.started + 1

    def answered(self, status: int) -> None:
        """An answer of `status` was handed to the kernel whole: `finish` and `leave` at once."""
        self.row[FINISHED] = self.finished = self.finished + 1
        self.inflight -= 1
        if status >= 400 or self.inflight == self.capacity - 1:
            self.notable(status)

    def answered_all(self, count: int) -> None:
        """`answered` for so many at once, of which none is an error."""
        self.row[FINISHED] = self.finished = self.finished + count
        inflight = self.inflight
        self.inflight = inflight - count
        if inflight >= self.capacity > self.inflight:
            self._on_room()

    def notable(self, status: int) -> None:
        """The rest of `answered`, which few answers need."""
        if status >= 400:
            self.row[_ANSWERS_5XX if status >= 500 else _ANSWERS_4XX] += 1
            if status >= 500 and self.on_error is not None:
                self.on_error()
        if self.inflight == self.capacity - 1:
            self._on_room()

    def finish(self) -> None:
        """A request is done with whose client had gone, or broke it."""
        self.row[FINISHED] = self.finished = self.finished + 1

    def cut(self) -> None:
        """A request was given up on with its client still there."""
        self.row[_CUT] += 1
        if self.on_error is not None:
            self.on_error()

    def turned_away(self) -> None:
        """A request that was not in flight was answered with 503, unseen by the app."""
        self.row[_SHED] += 1
        self.finish()

    def leave(self) -> None:
        """A started request, finished or cut before, occupies the worker no more."""
        inflight = self.inflight
        self.inflight = inflight - 1
        if inflight == self.capacity:
            self._on_room()

    def refuse(self, by: Cell) -> None:
        """A head or body was refused, for what `by` counts."""
        self.row[_BAD_REQUESTS] += 1
        self.row[by] += 1

    def ended(self, by: Cell) -> None:
        """A connection has come to its end by what `by` counts."""
        self.row[by] += 1
