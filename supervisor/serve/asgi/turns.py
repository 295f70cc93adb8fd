"""The tasks that ASGI requests run in: one for all that a turn of the loop brings, as long as none of them waits.

Invariants. App code has a current task and a context that are its own. A request that has not waited leaves its task to
the next one only when nobody can tell: no reference to the task is left, no cancellation, callback or name, nothing in
the context. The first one that waits keeps the task, and those behind it get tasks of their own at once; so does each
that comes after, until a run of them has been started.

A turn of the loop takes `SLICE` seconds, about: no more requests are begun in it than that allows, going by what those
of the turns before have cost, nor more than may be in flight: `max_inflight`, or as many as could be without the loop
being held up by them when they go on. The others stand in line. While all that comes can be begun none of this is
measured; a loop that comes late has it measured again.

A task costs as much as reading a head: made, entered, forgotten. Python 3.12's eager tasks, which those of their own
are where they exist, save the entering.
"""

from __future__ import annotations

import asyncio
import contextvars
import operator
import sys
from sys import getrefcount
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import getweakrefcount

if TYPE_CHECKING:
    from supervisor.serve.asgi.bridge import AsgiBridge
    from supervisor.serve.asgi.exchange import AsgiExchange
    from supervisor.serve.line import Line
    from supervisor.serve.service import Service

_EAGER: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}
SLICE = 0.05  # seconds of app code in a turn of the loop, about, while more waits
CAREFUL = 64  # requests begun in a turn before it is known what they cost
CALM = 8  # turns in a row within a `SLICE`, after which they are not measured any more
LATE = 2 * SLICE  # seconds that the loop may be late before they are again
HELD_UP = 4 * SLICE  # seconds in two turns, and fewer may be in flight from then on
LOOK = 0.02  # seconds between two looks at a line that nobody can leave
NAME = "request"  # of a task: rendering a number for each would cost more than it tells
ALONE = 32  # requests that get tasks of their own, after one that waited, before the next may share


class Turns:
    """Starts the app for the requests of `bridge`, each at the next turn of the loop."""

    def __init__(self, bridge: AsgiBridge, line: Line[AsgiExchange]) -> None:
        self.waiting: list[AsgiExchange] = []  # append to it when it is not empty, else `begin`
        self._line = line
        self.has_line = False  # somebody waits for their turn there
        self._bridge = bridge
        self._service: Service = bridge.service
        self._most = CAREFUL  # requests begun in one turn
        self._flight = bridge.service.capacity  # requests in flight at once
        self._calm = 0  # turns in a row that had room for more
        self._began: float | None = None  # when the turn did that is measured
        self._count = 0  # requests begun in it
        self._in_flight = 0  # then
        self._looker: asyncio.Handle | None = None
        self._looks_at_once = False
        self._alone = 0
        self._batch: list[AsgiExchange] = []  # the rest of the turn under way; the last is with the app

    def begin(self, exchange: AsgiExchange) -> None:
        """Start the app for this one, and for whatever is appended to `waiting` before the turn comes."""
        if self._alone and not self.has_line and self._has_room():
            self._alone -= 1
            self._start_alone(exchange)
        else:
            self.waiting.append(exchange)
            self._make_task(self.waiting, {})

    def is_running(self) -> bool:
        """Whether requests are yet to be started."""
        return bool(self.waiting or self._batch or self.has_line)

    def cancel(self) -> None:
        """Start none of those whose turn has not come."""
        self._abandon(self.waiting)
        self._abandon(self._line.clear())
        self.has_line = False

    def resume(self) -> None:
        """There may be room for one in line."""
        if self.has_line and not (self._looker is not None and self._looks_at_once):
            self._look_again(0.0)

    def feel(self, lag: float) -> None:
        """The loop has come so many seconds late."""
        if lag > LATE:
            self._calm = 0
            self._most = min(self._most, CAREFUL)

    def _has_room(self) -> bool:
        """Whether one more may begin in this turn, who is in flight already."""
        if self._calm < CALM:
            if self._began is None:
                self._measure()
            if self._count >= self._most:
                return False
            self._count += 1
        return self._service.inflight <= self._flight

    def _admit(self, batch: list[AsgiExchange]) -> None:
        """Have all of them stand in line, and replace them by those whose turn it is."""
        line = self._line
        line.add(batch)
        room = min(self._most, self._flight - self._service.inflight)
        batch[:] = line.take(room)
        if room <= 0 and line:
            self._service.crowded(line)
        self.has_line = bool(line)
        if self.has_line:
            self._calm = 0
            self._look_again(LOOK if room <= 0 else 0.0)

    def _look_again(self, seconds: float) -> None:
        """At the line, in the loop's next turn or after so many seconds."""
        if self._looker is not None:
            self._looker.cancel()
        loop = self._bridge.loop
        self._looks_at_once = not seconds
        self._looker = loop.call_later(seconds, self._look) if seconds else loop.call_soon(self._look)

    def _look(self) -> None:
        self._looker = None
        if self.has_line and not self.waiting:  # else its turn looks
            batch: list[AsgiExchange] = []
            self._admit(batch)
            if batch:
                self._begin_measured(len(batch))
                self._make_task(batch, {})

    def _begin_measured(self, count: int) -> None:
        if self._began is None:
            self._measure()
        self._count += count

    def _measure(self) -> None:
        """What is begun from now on, until it has had its turn: tasks of their own have it in the next one."""
        self._began = monotonic()
        self._in_flight = self._service.inflight
        self._bridge.loop.call_soon(self._bridge.loop.call_soon, self._measured)

    def _measured(self) -> None:
        assert self._began is not None
        seconds, count = monotonic() - self._began, self._count
        self._began, self._count = None, 0
        if seconds > HELD_UP:
            self._flight = max(1, int(min(self._flight, self._in_flight) * SLICE / seconds))
        elif seconds < SLICE and self._flight < self._service.capacity:
            self._flight = min(self._service.capacity, self._flight + 1 + self._flight // 8)
        self._calm = self._calm + 1 if seconds < SLICE and not self.has_line else 0
        if count:
            self._most = max(1, min(int(count * SLICE / seconds), max(CAREFUL, 4 * count)))

    def _start_alone(self, exchange: AsgiExchange) -> None:
        task = self._make_task([exchange], _EAGER)
        if not task.done():
            exchange.has_task(task)
            if _EAGER:
                exchange.waits()

    def _make_task(self, batch: list[AsgiExchange], options: dict[str, Any]) -> asyncio.Task[None]:
        loop = self._bridge.loop
        context = self._bridge.service.context.copy()
        task = asyncio.Task(self._run(batch, context), loop=loop, name=NAME, context=context, **options)
        if not task.done():
            loop.call_soon(self._after_first_step, task, batch)
        return task

    async def _run(self, batch: list[AsgiExchange], context: contextvars.Context) -> None:
        if batch is self.waiting:
            self.waiting = []
            self._batch = batch
            if self.has_line or len(batch) > self._most or self._service.inflight > self._flight:
                self._admit(batch)
            if self._calm < CALM:
                self._begin_measured(len(batch))
        batch.reverse()
        task = asyncio.current_task()
        assert task is not None
        strongs, weaks, size = getrefcount(task), getweakrefcount(task), len(context)
        values = tuple(context.values())
        bridge = self._bridge
        app = bridge.app
        while batch:
            exchange = batch[-1]
            try:
                await app(exchange.scope(bridge), exchange.receive, exchange.send)
            except BaseException as error:
                if batch:
                    batch.pop()
                exchange.ended(error)
            else:
                if batch:
                    batch.pop()
                exchange.ended(None)
            if batch and (
                getrefcount(task) != strongs
                or getweakrefcount(task) != weaks
                or task.cancelling()
                or task._must_cancel  # type: ignore[attr-defined]  # CPython 3.11 keeps it when `uncancel` takes it back
                or task._callbacks
                or task.get_name() != NAME
                or len(context) != size
                or (size and not all(map(operator.is_, context.values(), values)))
            ):
                self._part(batch)
        bridge.service.gathering.post()
        bridge.current.value = b""  # none runs its first step: `leave`, written out

    def _after_first_step(self, task: asyncio.Task[None], batch: list[AsgiExchange]) -> None:
        """The task has returned to the loop for the first time: the last of its batch waits for something, if any is
        left. (When the task is done, it was cancelled before that step.)"""
        if task.done():
            self._abandon(batch)
        elif batch:
            exchange = batch.pop()
            exchange.has_task(task)
            exchange.waits()
            self._part(batch)

    def _part(self, batch: list[AsgiExchange]) -> None:
        """The task belongs to one request from now on."""
        self._alone = ALONE
        while batch:
            self._start_alone(batch.pop())

    def _abandon(self, batch: list[AsgiExchange]) -> None:
        if batch is self.waiting:
            self.waiting = []
        while batch:
            batch.pop().ended(asyncio.CancelledError("cancelled before the app was called"))
