"""The tasks that ASGI requests run in: one for all that a turn of the loop brings, as long as none of them waits.

Invariants. App code has a current task and a context that are its own. A request that has not waited leaves its task to
the next one only when nobody can tell: no reference to the task is left, no cancellation, nothing in the context. The
first one that waits keeps the task, and those behind it get tasks of their own at once; so does each that comes after,
until a run of them has been started.

A task costs as much as reading a head: made, entered, forgotten. Python 3.12's eager tasks, which those of their own
are where they exist, save the entering.
"""

from __future__ import annotations

import asyncio
import contextvars
import operator
import sys
from sys import getrefcount
from typing import TYPE_CHECKING, Any
from weakref import getweakrefcount

if TYPE_CHECKING:
    from supervisor.serve.asgi import AsgiBridge, AsgiExchange

_EAGER: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}
ALONE = 32  # requests that get tasks of their own, after one that waited, before the next may share


class Turns:
    """Starts the app for the requests of `bridge`, each at the next turn of the loop."""

    def __init__(self, bridge: AsgiBridge) -> None:
        self.waiting: list[AsgiExchange] = []  # append to it when it is not empty, else `begin`
        self._bridge = bridge
        self._alone = 0
        self._batch: list[AsgiExchange] = []  # the rest of the turn under way; the last is with the app

    def begin(self, exchange: AsgiExchange) -> None:
        """Start the app for this one, and for whatever is appended to `waiting` before the turn comes."""
        if self._alone:
            self._alone -= 1
            self._start_alone(exchange)
        else:
            self.waiting.append(exchange)
            self._make_task(self.waiting, {})

    def is_running(self) -> bool:
        """Whether requests are yet to be started."""
        return bool(self.waiting or self._batch)

    def cancel(self) -> None:
        """Start none of those whose turn has not come."""
        self._abandon(self.waiting)

    def _start_alone(self, exchange: AsgiExchange) -> None:
        task = self._make_task([exchange], _EAGER)
        if not task.done():
            exchange.has_task(task)
            if _EAGER:
                exchange.waits()

    def _make_task(self, batch: list[AsgiExchange], options: dict[str, Any]) -> asyncio.Task[None]:
        loop = self._bridge.loop
        context = self._bridge.service.context.copy()
        name = "request"  # rendering a number for each would cost more than it tells
        task = asyncio.Task(self._run(batch, context), loop=loop, name=name, context=context, **options)
        if not task.done():
            loop.call_soon(self._after_first_step, task, batch)
        return task

    async def _run(self, batch: list[AsgiExchange], context: contextvars.Context) -> None:
        if batch is self.waiting:
            self.waiting = []
            self._batch = batch
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
                or len(context) != size
                or (size and not all(map(operator.is_, context.values(), values)))
            ):
                self._part(batch)
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
