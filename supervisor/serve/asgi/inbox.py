"""What waits for an app on its WebSocket: messages in order, and after them the end.

Invariant: nothing that came is lost by the end that follows it, and an app that asks again after the end is told again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervisor.serve.asgi.interface import Message

_COUNT = 32  # messages that may wait before reading should stop


class Inbox:
    """`receive` is the app's. `on_empty` is called when the app has taken the last message."""

    __slots__ = ("_end", "_limit", "_loop", "_queue", "_size", "_waiters", "gone", "on_empty")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        """`limit`: bytes and characters that may wait before reading should stop."""
        self.on_empty: Callable[[], None] | None = None
        self.gone = False  # nothing that the app sends reaches the client
        self._loop = loop
        self._limit = limit
        self._queue: deque[str | bytes | None] = deque((None,))  # None is websocket.connect
        self._size = 0
        self._end: Message | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def receive(self) -> Message:
        """ASGI's receive: connect, the messages, and then the disconnect as often as it is asked for."""
        queue = self._queue
        while not queue:
            if self._end is not None:
                return self._end
            await self.change()
        message = queue.popleft()
        if message is None:
            return {"type": "websocket.connect"}
        self._size -= len(message)
        if not queue and self.on_empty is not None:
            self.on_empty()
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    def put(self, messages: Sequence[str | bytes]) -> None:
        """More messages."""
        self._queue.extend(messages)
        for message in messages:
            self._size += len(message)
        self.wake()

    def is_full(self) -> bool:
        """Whether the app has enough to do."""
        return len(self._queue) > _COUNT or self._size > self._limit

    def end(self, code: int, reason: str) -> None:
        """Nothing comes after what is here. The first call says why."""
        if self._end is None:
            self._end = {"type": "websocket.disconnect", "code": code, "reason": reason}
        self.wake()

    def hang_up(self, code: int, reason: str) -> None:
        """The same, and nothing that the app sends goes out any more."""
        self.gone = True
        self.end(code, reason)

    async def change(self) -> None:
        """Wait for `wake`."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def wake(self) -> None:
        """Something has changed: whoever waits looks again."""
        waiters = self._waiters
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
