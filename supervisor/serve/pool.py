"""The threads that run a WSGI app, and what crosses between them and the event loop.

Invariant: a job that waits has a thread on its way to it, and an answer that waits has the loop on its way, at once or
within `_RESCUE` seconds. Neither side takes a lock for it: a deque's `append` and `popleft` are atomic, and each side
looks at the queue once more after it has said that it sleeps.

What costs is waking: a system call, and a change of the thread that holds the interpreter, which together are more than
a small request. So the loop wakes threads once for all jobs of a turn, and a thread wakes the loop once for all answers
that wait. While jobs are quick, one thread is woken for a turn's jobs and runs them in a row, and wakes the loop after
the last. Should one of them block after all, the rescue finds the others still waiting, and wakes a thread for each.
"""

from __future__ import annotations

import asyncio
import threading
import time
from _thread import LockType, allocate_lock
from collections import deque
from typing import Protocol

_RESCUE = 0.001
_QUICK = 0.0002  # seconds; jobs that take less are cheaper to run in a row than to spread
_SLOW = 8 * _QUICK  # no turn counts for more: one that was held up by others does not make the app a slow one


class Job(Protocol):
    """What threads run; `posted` is called in the loop with what `run` has posted, in order."""

    def run(self) -> None:
        """In a thread. Raises nothing."""

    def posted(self, data: bytes | None, last: bool) -> None:
        """In the loop."""


class Pool:
    """At most `size` daemon threads, started when first needed."""

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._size = size
        self._loop = loop
        self._name = name
        self._jobs: deque[Job | None] = deque()
        self._outbox: deque[tuple[Job, bytes | None, bool]] = deque()
        self._idle: list[LockType] = []  # one lock for each sleeping thread, released to wake it
        self._threads: list[threading.Thread] = []
        self._waking = False
        self._watching = False
        self._delivering = False
        self._pace = _SLOW  # seconds a job takes, as a moving average

    # In the loop.

    def submit(self, job: Job) -> None:
        """Have `job.run` called in a thread."""
        self._jobs.append(job)
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake)

    def close(self) -> None:
        """Let every thread end after what it is doing; nobody waits for them."""
        self._jobs.extend([None] * len(self._threads))
        while self._idle:
            self._idle.pop().release()

    def _wake(self) -> None:
        self._waking = False
        waiting = len(self._jobs)
        self._wake_threads(1 if self._pace < _QUICK else waiting)
        if waiting > 1 and not self._watching:
            self._watching = True
            self._loop.call_later(_RESCUE, self._rescue)

    def _wake_threads(self, number: int) -> None:
        while number > 0 and self._idle:
            self._idle.pop().release()
            number -= 1
        while number > 0 and len(self._threads) < self._size:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads) + 1}", daemon=True)
            self._threads.append(thread)
            thread.start()
            number -= 1

    def _rescue(self) -> None:
        """What was left to one thread has not been done by now: give it to as many as there are."""
        self._watching = False
        self._deliver()
        waiting = len(self._jobs)
        if waiting:
            self._wake_threads(waiting)
            self._watching = True
            self._loop.call_later(_RESCUE, self._rescue)

    def _deliver(self) -> None:
        self._delivering = False
        outbox = self._outbox
        while outbox:
            job, data, last = outbox.popleft()
            job.posted(data, last)

    # In a thread.

    def post(self, job: Job, data: bytes | None, last: bool) -> None:
        """Have `job.posted(data, last)` called in the loop, after everything that was posted before."""
        self._outbox.append((job, data, last))
        if self._delivering or (last and self._pace < _QUICK and self._jobs):
            return  # the loop is on its way already, or is called with the answer to the last of the jobs
        self._delivering = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            return  # the loop has ended before this thread: nobody waits for the answer any more

    def _work(self) -> None:
        jobs, idle = self._jobs, self._idle
        asleep = allocate_lock()
        asleep.acquire()
        while self._run_all(jobs):
            idle.append(asleep)
            if jobs:
                try:
                    idle.remove(asleep)
                    continue
                except ValueError:
                    pass  # woken already: the lock is, or is about to be, released
            asleep.acquire()

    def _run_all(self, jobs: deque[Job | None]) -> bool:
        """Run what there is; False when the thread is to end."""
        began = time.monotonic()
        count = 0
        while jobs:
            try:
                job = jobs.popleft()
            except IndexError:
                break  # another thread was quicker
            if job is None:
                return False
            job.run()
            count += 1
        if count:
            self._pace += (min((time.monotonic() - began) / count, _SLOW) - self._pace) / 16
        return True
