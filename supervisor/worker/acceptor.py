"""Admission: a worker takes a connection only when it can serve it.

Invariants:
- The listening sockets are in an epoll of the worker's own, whose descriptor the event loop watches: a worker without
  room takes them out and sees no connection, while the kernel keeps them queued for whoever has room.
- One wake-up takes one connection; more only while nothing else is under way, so that an idle sibling gets its share.
- Who is full takes a few all the same when nobody else has taken them for a while, as long as those it has need not
  wait long: connections that are in use all the time would else keep others out for good.
- A connection just taken counts as a request, which is all but sure to be on its way: with room for one, one is taken.
- A worker that is held, by its circuit breaker, takes only of those who have been waiting for a while. After a turn of
  the loop that was blocked it takes nobody before its lag has been judged.
- No more connections are taken than are allowed; who has used up what was allowed is not full, but leaves the others
  their turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
from collections.abc import Callable
from typing import Protocol

from supervisor.kernel.board import Cell, Row
from supervisor.kernel.door import Door, silence

ANY = 1 << 62  # connections: as many as there is room for
WHILE_IDLE = 4  # connections taken in one wake-up by a worker with nothing under way
WHILE_QUEUEING = 64  # by one with more than it can begin: its turns are long, and nobody took them in the last one
ASK_EVERY = 0.01  # seconds, or less often, that one just taken is asked how long it has waited
BEHIND = 0.05  # seconds: nobody has had room for it
FORSAKEN = 5  # looks in a row, `PATIENCE` apart, with somebody at the door: nobody has room for them
FORSAKEN_AT_ONCE = 16  # connections that a full worker takes then, to wait in its own line
OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
FIRST_REQUEST_PAUSE = 0.005  # seconds that a full worker gives connections just taken to bring their requests
DOUBT = 1.0  # seconds without such pauses after one in which most of them brought none
PATIENCE = 0.01  # seconds that a full worker leaves connections to others, time and again
LEFT_LYING = 4  # connections that it takes then, if it keeps up
LOOKS = 2  # in a row, in which somebody waits, before a worker that is held takes any
SHORTAGE_PAUSE = 0.5  # seconds without accepting after the kernel refused one for want of resources
SWEEP = 4096  # connections taken at most from the queue of a socket that is about to close
_STARTED = int(Cell.STARTED)


class Taker(Protocol):
    """Whoever serves the connections."""

    capacity: int
    is_held: bool
    lets_wait: bool  # those who have no room, and turns them away when they have waited for too long

    @property
    def is_queueing(self) -> bool: ...

    @property
    def inflight(self) -> int: ...

    @property
    def load(self) -> int: ...

    def is_full(self) -> bool: ...

    def keeps_up(self) -> bool: ...

    def kept_waiting(self, seconds: float) -> None: ...

    def has_place(self) -> bool: ...

    def accepted(self, sock: socket.socket, peer: object, here: object) -> None: ...


class Acceptor:
    """Feeds `taker` from the listening sockets. `on_change(is_open)` tells when it starts or stops taking.

    `row` is where the taker counts the requests that it has begun. `is_late` says that nothing is to be taken in this
    turn of the loop, which has come so late that the next will see the taker held.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listeners: list[socket.socket],
        taker: Taker,
        row: Row,
        on_shortage: Callable[[OSError], None],
        on_change: Callable[[bool], None],
        is_late: Callable[[], bool] = lambda: False,
    ) -> None:
        self._loop = loop
        self._doors = {listener.fileno(): Door(listener) for listener in listeners}
        self._taker = taker
        self._row = row
        self._on_shortage = on_shortage
        self._on_change = on_change
        self._is_late = is_late
        self._epoll = select.epoll()
        self._is_open = False
        self._is_watching = False
        self._is_short = False
        self._is_patient = False
        self._taken = 0
        self._allowed = ANY  # connections in all
        self._ration = ANY  # connections in all, until the next is given out
        self._ask_at = 0.0  # loop time
        self._is_behind = False  # those at the door have waited for long
        self._lying = 0  # looks in a row, while it was full, at which somebody waited
        self._looks = 0  # in a row, at which somebody waited while the taker was held
        self._awaited = 0  # how many requests will have begun once each connection taken lately has brought one
        self._doubts_until = 0.0  # that they will; loop time

    def open(self) -> None:
        """Begin, or begin again, to take connections. Harmless when open, closed for good, full, or out of
        descriptors."""
        if self._is_watching or self._is_short or self._epoll.closed or self._is_full():
            return
        if not self._is_used_up:
            for fd in self._doors:
                self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            self._loop.add_reader(self._epoll.fileno(), self._on_waiting)
            self._is_watching = True
        if not self._is_open:
            self._is_open = True
            self._on_change(True)

    def look(self) -> None:
        """There may be no room any more: then say so before somebody comes."""
        if self._is_watching and self._is_full():
            self.pause()
            self._be_patient()

    def allow(self, connections: int | None) -> None:
        """Take so many in all, counted from the first; None: as many as there is room for."""
        self._allowed = ANY if connections is None else connections
        if self._is_open:
            self.open()

    def ration(self, connections: int | None) -> None:
        """Take so many from now on, until this is called again; None: any number."""
        self._looks = 0
        self._ration = ANY if connections is None else self._taken + connections
        if self._is_open:
            self.open()

    def take_forsaken(self) -> None:
        """To be called from time to time while the taker is held: take some of those who wait when nobody else does,
        and more each time."""
        if self._epoll.closed or not any(door.is_waited_at() for door in self._doors.values()):
            self._looks = 0
            return
        self._looks += 1
        for door in self._doors.values():
            for _ in range(LEFT_LYING * (self._looks - LOOKS)):
                if self._is_short or self._is_used_up or not (self._taker.has_place() and self._take(door)):
                    break

    def pause(self) -> None:
        """Leave the listening sockets to others."""
        self._look_away()
        if self._is_open:
            self._is_open = False
            self._on_change(False)

    def close(self, *, sweep: bool) -> None:
        """Stop for good and close this process's copies; with `sweep` take first what already waits."""
        self.pause()
        for door in self._doors.values():
            for _ in range(SWEEP if sweep else 0):
                if not self._take(door):
                    break
            door.close()
        self._doors.clear()
        self._epoll.close()

    def _on_waiting(self) -> None:
        if self._is_late():
            return
        for fd, _events in self._epoll.poll(0, len(self._doors)):
            door = self._doors[fd]
            for _ in range(min(self._at_once(), self._room())):
                if not (self._taker.has_place() and self._take(door)):
                    break
            if not self._is_watching:
                return

    def _at_once(self) -> int:
        """Connections to take in this turn of the loop."""
        if self._taker.is_queueing or self._is_behind:
            return WHILE_QUEUEING
        return 1 if self._taker.inflight or self._doubts() else WHILE_IDLE

    @property
    def _is_used_up(self) -> bool:
        return self._taken >= self._allowed or self._taken >= self._ration

    def _is_full(self) -> bool:
        """No request more, or no connection more, has a place; the taker says when one has."""
        return self._taker.is_full() or not self._taker.has_place()

    def _room(self) -> int:
        """How many more connections could be served; if none, stop watching until there may be room again."""
        taker = self._taker
        if self._is_used_up:
            self._look_away()
            return 0
        if self._is_full():
            self.pause()
            self._be_patient()
            return 0
        room = taker.capacity - taker.load - self._silent()
        if room < WHILE_QUEUEING and (taker.is_queueing or self._doubts()):
            room = WHILE_QUEUEING
        if room <= 0:
            self._look_away()
            self._loop.call_later(FIRST_REQUEST_PAUSE, self._look_again)
            return 0
        return min(room, self._allowed - self._taken, self._ration - self._taken)

    def _silent(self) -> int:
        """Connections taken lately that have brought no request yet."""
        return max(0, self._awaited - self._row[_STARTED])

    def _doubts(self) -> bool:
        """Whether most connections have lately brought no request."""
        return self._loop.time() < self._doubts_until

    def _look_away(self) -> None:
        if self._is_watching:
            self._loop.remove_reader(self._epoll.fileno())
            for fd in self._doors:
                self._epoll.unregister(fd)
            self._is_watching = False

    def _look_again(self) -> None:
        """Those who have brought no request by now are not waited for, nor, if they are most, those who come next."""
        if 2 * self._silent() >= self._taker.capacity:
            self._doubts_until = self._loop.time() + DOUBT
        self._awaited = 0
        if self._is_full():
            self.pause()
            self._be_patient()
        else:
            self.open()

    def _be_patient(self) -> None:
        if not self._is_patient:
            self._is_patient = True
            self._loop.call_later(PATIENCE, self._take_left)

    def _take_left(self) -> None:
        """If there is still no room, take a few of those whom nobody has taken."""
        self._is_patient = False
        if self._is_watching or self._is_short or self._epoll.closed:
            return
        taker = self._taker
        for door in self._doors.values():
            for _ in range(self._left_lying()):
                if self._is_used_up or not (taker.has_place() and self._take(door)):
                    break
        self._be_patient()

    def _left_lying(self) -> int:
        """How many of those to take whom nobody has taken."""
        taker = self._taker
        if taker.keeps_up():
            return LEFT_LYING
        if taker.is_held or not taker.lets_wait or not any(door.is_waited_at() for door in self._doors.values()):
            self._lying = 0
            return 0
        self._lying += 1
        return FORSAKEN_AT_ONCE if self._lying > FORSAKEN else 0

    def _take(self, door: Door) -> bool:
        try:
            sock, peer = door.accept()
        except BlockingIOError:
            return False
        except ConnectionError:  # gone again while it waited (accept(2), ECONNABORTED)
            return True
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                self._run_short(error)
                return False
            raise
        self._taken += 1
        if (now := self._loop.time()) >= self._ask_at:
            self._ask_at = now + ASK_EVERY
            waited = silence(sock)
            self._is_behind = waited > BEHIND
            self._taker.kept_waiting(waited)
        self._awaited = max(self._awaited, self._row[_STARTED]) + 1
        self._taker.accepted(sock, peer, door.here)
        return True

    def _run_short(self, error: OSError) -> None:
        """A level-triggered listener that can't be accepted from would spin: look away for a moment."""
        self._on_shortage(error)
        self.pause()
        self._is_short = True
        self._loop.call_later(SHORTAGE_PAUSE, self._recover)

    def _recover(self) -> None:
        self._is_short = False
        with contextlib.suppress(OSError):
            self.open()
