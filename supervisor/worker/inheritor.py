"""Taking over connections: this worker's end of the queue into which leaving workers put theirs.

Invariants:
- All workers read the one queue, as they do the listening sockets: a connection is taken by who has room, and no death
  of a worker loses one that waits in it.
- A worker without room takes nothing but what nobody has taken at several looks: there it would be served by none. One
  that has its share takes only what has been left lying for `PATIENCE`.
- Nothing is taken out that there is no descriptor for: the kernel would drop it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from typing import Protocol

from supervisor.errors import ProtocolError
from supervisor.kernel.channel import Channel
from supervisor.messages.wire import HandOver, handed_over

AT_ONCE = 16  # connections taken in one turn of the event loop
PATIENCE = 0.05  # seconds that who has its share leaves to others
LEFT_LYING = 4  # connections that it takes then
WITHOUT_ROOM = 0.1  # seconds between looks at the queue while there is no room
LOOKS = 1  # in a row, at which something lay there, before any of it is taken all the same
SHORTAGE_PAUSE = 0.5  # seconds without taking after the kernel had no descriptor for one
SWEEP = 4096  # connections taken at most from a queue to which nobody else will come


class Heir(Protocol):
    """Whoever goes on with the connections."""

    def is_full(self) -> bool: ...

    @property
    def connections(self) -> int: ...

    def has_place(self) -> bool: ...

    def adopt(self, sock: socket.socket, handed: HandOver) -> None: ...


class Inheritor:
    """Feeds `heir` from `queue`. `on_shortage` hears of a lack of descriptors."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, queue: Channel, heir: Heir, on_shortage: Callable[[OSError], None]
    ) -> None:
        self._loop = loop
        self._queue = queue
        self._heir = heir
        self._on_shortage = on_shortage
        self._share: int | None = None
        self._is_watching = False
        self._pause: asyncio.TimerHandle | None = None  # not watching until then
        self._next_look: asyncio.TimerHandle | None = None  # while there is no room
        self._looks = 0

    def inherit(self, share: int | None) -> None:
        """Take over connections until there are `share` of them here, or more if need be; None: none any more."""
        self._share = share
        if share is None:
            self._look_away()
        else:
            self.resume()

    def resume(self) -> None:
        """There may be room again. Harmless at any time."""
        if self._share is None or self._is_watching or self._pause is not None:
            return
        if self._has_room():
            self._loop.add_reader(self._queue.fileno(), self._on_waiting)
            self._is_watching = True
        elif self._next_look is None:
            self._next_look = self._loop.call_later(WITHOUT_ROOM, self._look_without_room)

    def sweep(self) -> None:
        """Nobody else will come: take all that waits, with or without room, and then no more."""
        self.inherit(None)
        for _ in range(SWEEP):
            if not self._take():
                break

    def _has_room(self) -> bool:
        return not self._heir.is_full() and self._heir.has_place()

    def _on_waiting(self) -> None:
        share = self._share
        assert share is not None
        for _ in range(AT_ONCE):
            if not self._has_room():
                self._look_away()
                self.resume()
                return
            if self._heir.connections >= share:
                self._look_away(PATIENCE)
                return
            if not self._take():
                return

    def _look_away(self, seconds: float = 0.0) -> None:
        """Leave the queue to others, until `resume` is called, or for so long."""
        if self._is_watching:
            self._loop.remove_reader(self._queue.fileno())
            self._is_watching = False
        if seconds and self._pause is None:
            self._pause = self._loop.call_later(seconds, self._look_again)

    def _look_again(self) -> None:
        self._pause = None
        for _ in range(LEFT_LYING):
            if self._share is None or not self._has_room() or not self._take():
                break
        self.resume()

    def _look_without_room(self) -> None:
        """Take some of what nobody takes, and more each time."""
        self._next_look = None
        if self._share is None or self._is_watching or self._has_room() or not self._queue.is_waited_at():
            self._looks = 0
        else:
            self._looks += 1
            for _ in range(LEFT_LYING * (self._looks - LOOKS)):
                if not (self._heir.has_place() and self._take()):
                    break
        self.resume()

    def _take(self) -> bool:
        """Take one. False when none waits, or none can be taken."""
        try:
            os.close(os.dup(self._queue.fileno()))  # what this gives back is there for what comes
            received = self._queue.receive()
        except BlockingIOError:
            return False
        except OSError as error:
            self._on_shortage(error)
            self._look_away(SHORTAGE_PAUSE)
            return False
        if received is None:  # its other end is nowhere any more
            self.inherit(None)
            return False
        self._adopt(*received)
        return True

    def _adopt(self, data: bytes, fds: list[int]) -> None:
        try:
            handed = handed_over(data)
            sock = socket.socket(fileno=fds[0])
            del fds[0]
            sock.setblocking(False)
        except (ProtocolError, OSError, IndexError) as error:
            print(f"holdfast: a connection that was handed over is of no use: {error}", file=sys.stderr)
        else:
            self._heir.adopt(sock, handed)
        for fd in fds:
            os.close(fd)
