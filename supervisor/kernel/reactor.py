"""The master's event loop: one epoll, one heap of timers, signals through a wake-up descriptor.

Invariant: everything runs on one thread, one callback at a time, and no callback runs inside a signal handler.
asyncio would do the same for 7 MB more in a process that must stay small; this is all of it that the master needs.
Work that may wait goes to a `Lane`.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator

Callback = Callable[[], None]


_SPAN = 10.0  # seconds that one entry of the longest turns stands for
_SPANS = 6
_FEW_TIMERS = 64  # cancelled ones that may stay in the heap, whatever their share of it


class Timer:
    """A handle to one scheduled call. Cancelling is idempotent; a cancelled call never runs."""

    __slots__ = ("_on_cancel", "callback", "when")

    def __init__(self, when: float, callback: Callback, on_cancel: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback
        self._on_cancel = on_cancel

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self._on_cancel()


class Pace:
    """How long the longest turn of the last minute took, in seconds: what fell due meanwhile was so late at most. And
    how much CPU time the busiest one took: what is beyond that, the kernel has given to others."""

    def __init__(self, now: float) -> None:
        self._turns: deque[tuple[float, float]] = deque([(0.0, 0.0)], maxlen=_SPANS)
        self._span_ends = now + _SPAN

    def turned(self, began: float, ended: float, used: float) -> None:
        """A turn was `began` and `ended` then, and has `used` so many seconds of CPU time."""
        if ended >= self._span_ends:
            self._turns.append((0.0, 0.0))
            self._span_ends = ended + _SPAN
        longest, busiest = self._turns[-1]
        if ended - began > longest or used > busiest:
            self._turns[-1] = max(longest, ended - began), max(busiest, used)

    @property
    def longest(self) -> float:
        """Seconds that passed."""
        return max(longest for longest, _busiest in self._turns)

    @property
    def busiest(self) -> float:
        """Seconds of CPU time."""
        return max(busiest for _longest, busiest in self._turns)


class Descriptors:
    """Callbacks of descriptors, by what they wait for, in an epoll of their own."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` is readable or at its end. Replaces an earlier callback."""
        known = fd in self._readers or fd in self._writers
        self._readers[fd] = callback
        self._arm(fd, known)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` is writable or broken. Replaces an earlier callback."""
        known = fd in self._readers or fd in self._writers
        self._writers[fd] = callback
        self._arm(fd, known)

    def remove_reader(self, fd: int) -> None:
        """Stop watching for reading; call before `fd` is closed."""
        if self._readers.pop(fd, None):
            self._arm(fd, known=True)

    def remove_writer(self, fd: int) -> None:
        """Stop watching for writing; call before `fd` is closed."""
        if self._writers.pop(fd, None):
            self._arm(fd, known=True)

    def _arm(self, fd: int, known: bool) -> None:
        mask = (select.EPOLLIN if fd in self._readers else 0) | (select.EPOLLOUT if fd in self._writers else 0)
        if not mask:
            with contextlib.suppress(OSError):  # already closed: the kernel has dropped it itself
                self._epoll.unregister(fd)
        elif known:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)

    def _callbacks(self, fd: int, events: int) -> Iterator[Callback]:
        """Whom the events of a descriptor concern; the second is looked up when the first has run."""
        if events & ~select.EPOLLOUT and fd in self._readers:
            yield self._readers[fd]
        if events & ~select.EPOLLIN and fd in self._writers:
            yield self._writers[fd]


class Reactor(Descriptors):
    """Waits for descriptors, timers and signals until `stop`; what a callback raises goes to `on_error`."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        super().__init__()
        self.turns = 0
        self.pace = Pace(self.now())
        self._timers: list[tuple[float, int, Timer]] = []
        self._cancelled = 0  # of those in the heap; an upper bound
        self._sequence = itertools.count()
        self._signals: dict[int, Callback] = {}
        self._running = False
        self._on_error = on_error
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.add_reader(self._wake_read, self._drain_signals)
        self._old_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._old_handlers: dict[int, signal._HANDLER] = {}

    def now(self) -> float:
        """CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    def call_at(self, when: float, callback: Callback) -> Timer:
        """Run `callback` once at monotonic time `when`."""
        timer = Timer(when, callback, self._on_cancel)
        heapq.heappush(self._timers, (when, next(self._sequence), timer))
        return timer

    def call_later(self, delay: float, callback: Callback) -> Timer:
        """Run `callback` once, `delay` seconds from now."""
        return self.call_at(self.now() + delay, callback)

    def on_signal(self, number: signal.Signals, callback: Callback) -> None:
        """Run `callback` from the loop after each delivery of a signal (deliveries in between may merge).

        Replaces an earlier callback.
        """
        self._signals[number] = callback
        # The Python-level handler does nothing: the C handler has already written the number to the wake-up pipe.
        old = signal.signal(number, lambda *_: None) or signal.SIG_DFL
        self._old_handlers.setdefault(number, old)  # the one before ours, also when this replaces an earlier callback

    def run(self) -> None:
        """Serve until `stop` is called from a callback."""
        self._running = True
        used_before = time.thread_time()
        while self._running:
            ready = self._poll()
            began = self.now()
            self.turns += 1
            for fd, events in ready:
                for callback in self._callbacks(fd, events):
                    self.call(callback)
            self._run_timers()
            used = time.thread_time()
            self.pace.turned(began, self.now(), used - used_before)
            used_before = used

    def stop(self) -> None:
        """Make `run` return after the callbacks of this turn."""
        self._running = False

    def call(self, callback: Callback) -> None:
        """Run `callback` now; what it raises goes to `on_error`."""
        try:
            callback()
        except Exception as error:
            self._on_error(error)

    def close(self) -> None:
        """Restore signals and close the loop's own descriptors."""
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _on_cancel(self) -> None:
        """Clients that come and go leave cancelled timers behind: the heap is freed of them before they are most."""
        self._cancelled += 1
        if self._cancelled > max(_FEW_TIMERS, len(self._timers) // 2):
            self._timers = [entry for entry in self._timers if entry[2].callback is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def _poll(self) -> list[tuple[int, int]]:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        timeout = max(0.0, self._timers[0][0] - self.now()) if self._timers else -1
        return self._epoll.poll(timeout)

    def _run_timers(self) -> None:
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            _when, _sequence, timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                self.call(callback)

    def _drain_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            seen = os.read(self._wake_read, 4096)
            for number in dict.fromkeys(seen):
                if number in self._signals:
                    self.call(self._signals[number])
