"""The tasks that ASGI requests run in: one for all that a turn of the loop brings, as long as none of them waits.

Invariants. App code has a current task and a context that are its own. A request that has not waited leaves its task to
the next one only when nobody can tell: no reference to the task is left, no cancellation, nothing in the context. The
first one that waits keeps the task, and those behind it get tasks of their own at once; so does each that comes after,
until a run of them has ended without waiting.

A task costs as much as reading a head: made, entered, forgotten. Python 3.12's eager tasks, which those of their own
are where they exist, save the entering.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import operator
import sys
import types
import weakref
from collections.abc import Awaitable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisor.serve.asgi import AsgiBridge, AsgiExchange

_EAGER: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}
ALONE = 32  # requests in tasks of their own, after one that waited, before the next may share


class Turns:
    """Starts the app for the requests of `bridge`, each at the next turn of the loop."""

    def __init__(self, bridge: AsgiBridge) -> None:
        self.waiting: list[AsgiExchange] = []  # append to it when it is not empty, else `begin`
        self._bridge = bridge
        self._alone = 0
        self._batch: list[AsgiExchange] = []  # what is left of the turn under way

    def begin(self, exchange: AsgiExchange) -> None:
        """Start the app for this one, and for whatever is appended to `waiting` before the turn comes."""
        if self._alone:
            self._alone -= 1
            self._start_alone(exchange)
        else:
            self.waiting.append(exchange)
            self._make_task(self.waiting)

    def is_running(self) -> bool:
        """Whether requests are yet to be started."""
        return bool(self.waiting or self._batch)

    def cancel(self) -> None:
        """Start none of those whose turn has not come."""
        self._abandon(self.waiting)

    def _start_alone(self, exchange: AsgiExchange) -> None:
        task = self._make_task([exchange], **_EAGER)
        if not task.done():
            exchange.has_task(task)

    def _make_task(self, batch: list[AsgiExchange], **options: Any) -> asyncio.Task[None]:
        context = self._bridge.service.context.copy()
        name = "request"  # rendering a number for each would cost more than it tells
        task = asyncio.Task(self._run(batch, context), loop=self._bridge.loop, name=name, context=context, **options)
        task.add_done_callback(functools.partial(self._over, batch))
        return task

    def _over(self, batch: list[AsgiExchange], _task: asyncio.Task[None]) -> None:
        """The task has ended. What is left was never begun: a task can be cancelled before its first step."""
        self._abandon(batch)

    def _abandon(self, batch: list[AsgiExchange]) -> None:
        if batch is self.waiting:
            self.waiting = []
        while batch:
            batch.pop().ended(asyncio.CancelledError("cancelled before the app was called"))

    async def _run(self, batch: list[AsgiExchange], context: contextvars.Context) -> None:
        if batch is self.waiting:
            self.waiting = []
            self._batch = batch
        batch.reverse()
        task = asyncio.current_task()
        assert task is not None
        strong, weak = functools.partial(sys.getrefcount, task), functools.partial(weakref.getweakrefcount, task)
        strongs, weaks, size = strong(), weak(), len(context)
        values = tuple(context.values())
        bridge = self._bridge
        app = bridge.app
        while batch:
            exchange = batch.pop()
            try:
                work = app(exchange.scope(bridge), exchange.receive, exchange.send)
                if type(work) is not types.CoroutineType:
                    work = _awaited(work)
                waits_for = work.send(None)
            except StopIteration:
                exchange.ended(None)
            except BaseException as error:
                exchange.ended(error)
            else:
                exchange.has_task(task)
                self._part(batch)
                await self._finish(exchange, work, waits_for)
                return
            if batch and (
                strong() != strongs
                or weak() != weaks
                or task.cancelling()
                or len(context) != size
                or (size and not all(map(operator.is_, context.values(), values)))
            ):
                self._part(batch)

    def _part(self, batch: list[AsgiExchange]) -> None:
        """This task belongs to one request from now on."""
        self._alone = ALONE
        while batch:
            self._start_alone(batch.pop())

    async def _finish(self, exchange: AsgiExchange, work: Coroutine[Any, Any, None], waits_for: Any) -> None:
        failure: BaseException | None = None
        try:
            await _resumed(work, waits_for)
        except BaseException as error:
            failure = error
        exchange.ended(failure)


async def _awaited(work: Awaitable[None]) -> None:
    """A coroutine of whatever an app returns that can be awaited."""
    await work


@types.coroutine
def _resumed(work: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that was begun and has asked for `waits_for`."""
    while True:
        try:
            yield waits_for
        except BaseException as error:
            try:
                waits_for = work.throw(error)
            except StopIteration:
                return
        else:
            yield from work
            return
