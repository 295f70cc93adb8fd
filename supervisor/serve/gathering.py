"""Answers that go out back to back, when apps give them in quick succession.

A write wakes the process at the other end: the client, or the proxy on the same machine. Written one by one, with an
app's work in between, each finds it asleep again, and to wake it costs as much as a small request (on a virtual machine
more); written together, the first wakes it for all.

Invariants: an answer is held back only within a turn of the loop, for `TOGETHER` seconds, and for as long as the app
takes that runs when they are over. Until then it is still under way, so that whatever happens to its connection
meanwhile is seen to by the connection. After an app that was slow nothing is held back for a while.
"""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import TYPE_CHECKING

from supervisor.serve.http1.connection import finish_all

if TYPE_CHECKING:
    from supervisor.serve.http1.connection import Connection

CLOSE = 0.00005  # seconds between two answers of which the second may wait for a third
TOGETHER = 0.0005  # seconds from the first answer held back to the moment when all are written
SLOW = 0.001  # seconds from one answer to the next, while one is held back, after which
REST = 1.0  # seconds pass in which none is


class Gathering:
    """One worker's answers, in the order in which they were given."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._held: list[tuple[Connection, bytes]] = []
        self._last = 0.0  # when there was an answer
        self._began = 0.0  # when the first of those held back was given
        self._rests_until = 0.0
        self._will_post = False

    def finish(self, connection: Connection, data: bytes) -> None:
        """`Connection.finish`, now or soon."""
        now = monotonic()
        held = self._held
        if held:
            held.append((connection, data))
            if now - self._began > TOGETHER:
                if now - self._last > SLOW:
                    self._rests_until = max(self._rests_until, now + REST)
                self.post()
        elif now - self._last < CLOSE and now >= self._rests_until:
            self._began = now
            held.append((connection, data))
            if not self._will_post:
                self._will_post = True
                self._loop.call_soon(self._post_at_last)
        else:
            connection.finish(data)
        self._last = now

    def post(self) -> None:
        """Write what is held back."""
        held = self._held
        if not held:
            return
        self._held = []
        connections = []
        for connection, data in held:
            if connection.exchange is not None:  # else it was lost or cut
                if connection.outgoing:
                    connection.outgoing.append(data)
                    connection.flush()
                elif data:  # else it is written: a large body is not joined to its head
                    connection.transport.write(data)
                connections.append(connection)
        if connections:
            finish_all(connections)

    def stop(self) -> None:
        """Hold back nothing from now on: the worker leaves."""
        self._rests_until = math.inf
        self.post()

    def _post_at_last(self) -> None:
        self._will_post = False
        self.post()
