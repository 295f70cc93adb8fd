"""How a worker gives connections away: one between requests is a descriptor and a few words about it.

Invariants:
- A connection is in one hand: its worker's until the kernel has it in the hand-over queue, the queue's until another
  worker has taken it out. The master holds the queue open, so no death of either side loses what lies in it.
- Only a connection in IDLE moves, or one whose request waits in line and was seen by no app; then what was read goes
  along. Nothing else read is unanswered, nothing written is unsent. What the client sends from then on waits in the
  socket, which moves, too. Our copy is closed without shutdown(2): the client sees nothing.
- Requests move only as fast as they are taken: while something lies in the queue they keep their place in line.
- Who has given stays until all of it was taken: whoever is told meanwhile that nobody will take it can take it back.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from supervisor.kernel.channel import Channel
from supervisor.messages.wire import MAX_UNREAD, HandOver, encode
from supervisor.serve.http1.state import IDLE
from supervisor.serve.limits import TICK

if TYPE_CHECKING:
    from supervisor.serve.http1.connection import Connection
    from supervisor.serve.http1.ending import Ending

BATCH = 64  # connections given in one turn of the event loop
RELIEF = 8  # requests in line that are given at once, at most
PAUSE = 0.01  # seconds until a full queue is tried again, or asked whether all was taken
_FULL = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS}  # the last: unix(7), SCM_RIGHTS


class Crowd(Protocol):
    """Requests that wait for their turn."""

    def part(self, give: Callable[[Ending, bytes], bool]) -> None:
        """Call `exchange.pass_on(give)` of each, and forget those who are gone then."""


class Giver:
    """Gives to `queue`. `on_given` is told of each connection that is gone, `on_taken` when nothing is left to wait
    for; `tick` is the service's clock, by which connections expire. `most` is how many it gives at most."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        queue: Channel,
        tick: Callable[[], int],
        on_given: Callable[[Ending], None],
        on_taken: Callable[[], None],
        most: int | None = None,
    ) -> None:
        self._loop = loop
        self._queue = queue
        self._tick = tick
        self._on_given = on_given
        self._on_taken = on_taken
        self._left = most
        self._waiting: deque[Connection] = deque()
        self._timer: asyncio.Handle | None = None
        self._relief = 1
        self.is_open = True  # False for good once nobody can be given anything any more

    @property
    def is_done(self) -> bool:
        """All that was given has been taken. Those who give into the same queue wait for each other's, too."""
        return not (self.is_open and self._queue.unsent())

    def begin(self, connections: Iterable[Connection]) -> None:
        """Give those that are idle now, a batch in each turn of the loop, from the next turn on."""
        self._waiting.extend(connections)
        self._timer = self._loop.call_soon(self._go_on)

    def offer(self, connection: Connection) -> None:
        """Give one that has just become idle; if the queue is full, later, unless it is busy then."""
        if not self._give(connection):
            self._waiting.append(connection)
        self._schedule(PAUSE)

    def relieve(self, crowd: Crowd) -> None:
        """Give a few of those whose requests wait for their turn, if what was given before has been taken: one, then
        twice as many each time."""
        if not self.is_open:
            return
        if self._queue.unsent():
            self._relief = 1
            return
        room, self._relief = self._relief, min(RELIEF, 2 * self._relief)

        def give(connection: Ending, unread: bytes) -> bool:
            nonlocal room
            if not room or not self.is_open or len(unread) > MAX_UNREAD or not _is_unsaid(connection):
                return False
            room -= 1
            return self._send(connection, unread)

        crowd.part(give)

    def wait(self) -> None:
        """Ask until all was taken, and say so then: other givers may have put something into a queue found empty."""
        self._schedule(PAUSE)

    def close(self) -> None:
        """Give nothing any more."""
        self.is_open = False
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._queue.close()

    def _go_on(self) -> None:
        self._timer = None
        pause = 0.0
        for _ in range(BATCH):
            if not self._waiting:
                break
            connection = self._waiting.popleft()
            if not self._give(connection):
                self._waiting.appendleft(connection)
                pause = PAUSE
                break
        if self._waiting:
            self._schedule(pause)
        elif self.is_done:
            self._on_taken()
        else:
            self._schedule(PAUSE)

    def _schedule(self, pause: float) -> None:
        if self._timer is None and self.is_open:
            self._timer = self._loop.call_later(pause, self._go_on)

    def _give(self, connection: Connection) -> bool:
        """False when the queue is full. One that is not idle is passed over: it is offered when it is."""
        if connection.state is not IDLE or not _is_unsaid(connection):
            return True
        return self._send(connection) or not self.is_open

    def _send(self, connection: Ending, unread: bytes = b"") -> bool:
        """Whether it is the queue's now."""
        sock = connection.transport.get_extra_info("socket")
        try:
            self._queue.send(encode(self._describe(connection, unread)), [sock.fileno()])
        except OSError as error:
            if error.errno not in _FULL:
                self.close()
            return False
        connection.part()
        if self._left is not None:
            self._left -= 1
            if not self._left:
                self.close()
        self._on_given(connection)
        return True

    def _describe(self, connection: Ending, unread: bytes) -> HandOver:
        origin = connection.origin
        told = (connection.client, connection.server, connection.scheme)
        client, server, scheme = told if origin is None else origin.itself
        until = time.monotonic() + TICK * (connection.expires - self._tick())
        asked = max(0, connection.asked - bool(unread))
        return HandOver("https" if scheme == "https" else "http", client, server, until, asked, unread)


def _is_unsaid(connection: Ending) -> bool:
    """Nothing is on its way to the client."""
    transport = connection.transport
    return not (transport.is_closing() or transport.get_write_buffer_size())
