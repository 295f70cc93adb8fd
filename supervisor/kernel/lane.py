"""Work that may wait: descriptors and timers whose callbacks together get a slice of each turn of the reactor.

Invariant: however many of them are due, they take no more than `budget` seconds of a turn, and the rest of the one
callback that is under way when it is over. What is left comes later, everybody in turn.

The descriptors lie in an epoll of their own, of which the reactor sees a single descriptor. They are asked for one at
a time: the kernel puts one that it has reported at the end of its queue (epoll(7)), so none is passed over for long.
"""

from __future__ import annotations

from collections import deque

from supervisor.kernel.reactor import Callback, Descriptors, Reactor, Timer

BUDGET = 0.001  # seconds


class Lane(Descriptors):
    """Has the methods of a `Reactor` by which one waits for something."""

    def __init__(self, reactor: Reactor, *, budget: float = BUDGET) -> None:
        super().__init__()
        self._reactor = reactor
        self._budget = budget
        self._due: deque[Timer] = deque()
        self._last_turn = -1
        self._next: Timer | None = None
        reactor.add_reader(self._epoll.fileno(), self._take_slice)

    def now(self) -> float:
        """CLOCK_MONOTONIC in seconds."""
        return self._reactor.now()

    def call_at(self, when: float, callback: Callback) -> Timer:
        """Run `callback` once at monotonic time `when`, or as soon as it is its turn then."""

        def come_due() -> None:
            if not self._epoll.closed:
                timer.callback = callback  # while it waits for its turn it can still be cancelled
                self._due.append(timer)
                self._plan()

        timer = self._reactor.call_at(when, come_due)
        return timer

    def call_later(self, delay: float, callback: Callback) -> Timer:
        """Run `callback` once, `delay` seconds from now, or as soon as it is its turn then."""
        return self.call_at(self.now() + delay, callback)

    def close(self) -> None:
        """Call nobody any more. Closing twice is harmless."""
        if not self._epoll.closed:
            self._reactor.remove_reader(self._epoll.fileno())
            self._epoll.close()
        self._due.clear()

    def _plan(self) -> None:
        if self._next is None or self._next.callback is None:
            self._next = self._reactor.call_later(0, self._take_slice)

    def _take_slice(self) -> None:
        if self._last_turn != self._reactor.turns:  # a turn has one slice, whether timers or descriptors ask for it
            self._last_turn = self._reactor.turns
            ends = self.now() + self._budget
            while self._step() and self.now() < ends:
                pass
        if self._due:
            self._plan()

    def _step(self) -> bool:
        """Serve who waits longest: one timer, one descriptor. False when nobody waits."""
        timer = self._due.popleft() if self._due else None
        if timer is not None and timer.callback is not None:
            callback, timer.callback = timer.callback, None
            self._reactor.call(callback)
        ready = [] if self._epoll.closed else self._epoll.poll(0, 1)
        for fd, events in ready:
            for callback in self._callbacks(fd, events):
                self._reactor.call(callback)
        return bool(timer or ready)
