"""The threads that run a WSGI app, and what crosses between them and the event loop.

Invariant: a job that waits has a thread on its way to it as long as any is idle, and an answer that waits has the loop
on its way. Neither side takes a lock for it: a deque's `append` and `popleft` are atomic, and each side looks at the
queue once more after it has said that it sleeps.

What costs is waking: one system call and one change of the thread that holds the interpreter. So the loop wakes
threads once for all jobs of a turn, and a thread wakes the loop once for all answers that wait, however many.
"""

from __future__ import annotations

import asyncio
import threading
from _thread import LockType, allocate_lock
from collections import deque
from typing import Protocol


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
        self._delivering = False

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
        while waiting > 0 and self._idle:
            self._idle.pop().release()
            waiting -= 1
        while waiting > 0 and len(self._threads) < self._size:
            self._spawn()
            waiting -= 1

    def _spawn(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads) + 1}", daemon=True)
        self._threads.append(thread)
        thread.start()

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
        if not self._delivering:
            self._delivering = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                return  # the loop has ended before this thread: nobody waits for the answer any more

    def _work(self) -> None:
        jobs, idle = self._jobs, self._idle
        asleep = allocate_lock()
        asleep.acquire()
        while True:
            if jobs:
                try:
                    job = jobs.popleft()
                except IndexError:
                    continue  # another thread was quicker
                if job is None:
                    return
                job.run()
                continue
            idle.append(asleep)
            if jobs:
                try:
                    idle.remove(asleep)
                    continue
                except ValueError:
                    pass  # woken already: the lock is, or is about to be, released
            asleep.acquire()
