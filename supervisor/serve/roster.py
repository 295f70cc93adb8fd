"""The connections that are open in one worker, and the ways they leave it: given to another worker, sent away, let go.

Invariant: a connection leaves under no request. It is given or let go between two of them, or given with a request
that waits in line and was seen by no app.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from supervisor.kernel.channel import Channel
from supervisor.serve.handover import Crowd, Giver
from supervisor.serve.http1.connection import Connection
from supervisor.serve.websocket.farewell import Farewell
from supervisor.serve.websocket.socket import WebSocket

if TYPE_CHECKING:
    from supervisor.serve.http1.ending import Ending


class Roster:
    """`tick` is the clock by which connections expire, `is_full` whether there is no room for a request more.
    `on_done` is called when all that was given in a drain was taken."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tick: Callable[[], int],
        is_full: Callable[[], bool],
        on_done: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._tick = tick
        self._is_full = is_full
        self._on_done = on_done
        self._open: set[Connection | WebSocket] = set()
        self._giver: Giver | None = None
        self._farewell = Farewell(loop)
        self._is_leaving = False
        self._lends_for_room = False
        self._closes_idle = False
        self.dismisses_idle = False  # a connection that becomes idle is not to stay

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection | WebSocket]:
        return iter(self._open)

    def add(self, connection: Connection) -> None:
        """It is open here from now on."""
        self._open.add(connection)

    def remove(self, connection: Connection | WebSocket) -> bool:
        """It is closed. False: it was not here any more, but another worker's."""
        if connection not in self._open:
            return False
        self._open.discard(connection)
        return True

    def upgrade(self, connection: Connection, socket: WebSocket) -> None:
        """The connection has become an open WebSocket."""
        self._open.discard(connection)
        self._open.add(socket)
        if self._is_leaving:
            self._farewell.add(socket)

    def drain(self, outlet: Channel | None, linger: float | None, farewell: float) -> None:
        """All are to leave: by `outlet` if they can, else with their next answer, those that are idle after `linger`
        seconds or, with None, at their own deadline. WebSockets are closed with 1012 within `farewell` seconds."""
        self._stop_giving()
        self.dismisses_idle = self._lends_for_room = False
        self._is_leaving = True
        if outlet is not None:
            self.give(outlet)
        self._farewell.begin([each for each in self._open if isinstance(each, WebSocket)], farewell)
        self._let_go(linger)

    def give(self, outlet: Channel) -> None:
        """Give those that can move to other workers, by `outlet`, in this drain."""
        self._stop_giving()
        self._begin_giving(Giver(self._loop, outlet, self._tick, self._given, self._on_done))

    def keep(self, linger: float | None) -> None:
        """Give nothing to other workers any more: who is still here is drained as without them."""
        self._stop_giving()
        self._let_go(linger)

    def lend(self, outlet: Channel | None, count: int) -> None:
        """Give `count` of those that can move to other workers, by `outlet`; if that is for want of room, as long as
        it lasts. None: no more."""
        self._stop_giving()
        self.dismisses_idle = False
        self._lends_for_room = self._is_full()
        if outlet is not None:
            self._begin_giving(Giver(self._loop, outlet, self._tick, self._given, lambda: None, count))

    def relieve(self, crowd: Crowd) -> None:
        """These wait for their turn, and nobody's turn comes: while some are lent to other workers, they are."""
        if self._giver is not None and not self._is_leaving:
            self._giver.relieve(crowd)

    @property
    def gives(self) -> bool:
        """Whether a connection that becomes idle can be given to another worker."""
        return self._giver is not None and self._giver.is_open

    def dismiss(self, connection: Connection) -> None:
        """The connection has become idle, and is not to stay."""
        if self._giver is not None and self._giver.is_open and connection.is_movable:
            if not self._lends_for_room or self._is_full():
                self._giver.offer(connection)
        elif self._closes_idle:
            connection.leave()

    def has_left(self) -> bool:
        """Whether nobody is here, and all that was given was taken. If only that is not yet so, `on_done` is called."""
        if self._open:
            return False
        if self._giver is not None and not self._giver.is_done:
            self._giver.wait()
            return False
        return True

    def abort(self) -> None:
        """End all, whatever they are at."""
        self._farewell.stop()
        self._stop_giving()
        for connection in tuple(self._open):
            connection.transport.abort()

    def cut(self) -> None:
        """End all, and count those that were not between two requests."""
        self._stop_giving()
        for connection in tuple(self._open):
            if connection.is_quiet:
                connection.tally.drained()
            else:
                connection.tally.cut_connection()
            connection.cut()

    def _begin_giving(self, giver: Giver) -> None:
        self._giver = giver
        giver.begin(each for each in self._open if isinstance(each, Connection) and each.is_movable)
        self.dismisses_idle = True

    def _stop_giving(self) -> None:
        if self._giver is not None:
            self._giver.close()

    def _given(self, connection: Ending) -> None:
        self._open.discard(connection)
        connection.tally.handed_over()
        self.dismisses_idle = self._is_leaving or self.gives

    def _let_go(self, linger: float | None) -> None:
        if linger is not None:
            self._loop.call_later(linger, self._close_idle)

    def _close_idle(self) -> None:
        self._closes_idle = self.dismisses_idle = True
        for connection in tuple(self._open):
            if not (self.gives and connection.is_movable):
                connection.leave()
