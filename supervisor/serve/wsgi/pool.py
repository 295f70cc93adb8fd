"""The threads that run a WSGI app, and what crosses between them and the event loop.

Invariant: a job that waits has a thread on its way to it, and an answer that waits has the loop on its way, at once or
within `_LOOK` seconds. Neither side takes a lock for it: a deque's `append` and `popleft` are atomic, and each side
looks at the queue once more after it has said that it sleeps.

What costs is waking: a system call, and a change of the thread that holds the interpreter, which together are more than
a small request. So the loop wakes threads once for all jobs of a turn, and a thread wakes the loop once for all answers
that wait. One thread, the `_lead`, runs all of a turn's jobs in a row: as long as it computes, another one could only
wait for it to let go of the interpreter. When it waits for something else, the next to wake takes the lead. How many
are woken for that beforehand goes by how often it has happened lately; where none was, the loop sees that the jobs
stand still, and wakes one.

The loop gives the interpreter away after each event that it handles, and gets it back from a thread that computes only
5 ms later (`sys.getswitchinterval`). So a thread with many jobs to run sleeps every `_TURN`, and the loop wakes it
again when it has handled all that there was.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable
from time import clock_gettime, monotonic, pthread_getcpuclockid
from typing import TYPE_CHECKING, Any, Protocol

from supervisor.kernel.recorder import Record, Recorder
from supervisor.serve.http1.familiar import Head
from supervisor.serve.patience import Patience

if TYPE_CHECKING:
    from supervisor.serve.http1.ending import Ending

_LOOK = 0.001  # seconds between two looks at jobs that wait
_PATIENCE = 50  # looks at one and the same waiting job, while the lead computes, before it gets another thread
_MEMORY = 16  # jobs, about, from which is known how many wait for something
_TURN = 0.002  # seconds, about, that jobs are run in a row before the loop has its turn
_GATHERED = 64  # jobs that are not kept waiting for more
_CROWDED = 0.02  # seconds that a job has waited, while all threads are held, before others may have it
_SOON = 0.1  # seconds in which a job that waits begins, or the pool does not keep up


class Client(Protocol):
    """Whom an answer goes to."""

    label: bytes

    def finish(self, data: bytes = b"") -> None: ...


class Job(Protocol):
    """What threads run."""

    @property
    def connection(self) -> Client: ...

    @property
    def since(self) -> float:
        """By `time.monotonic`."""

    @property
    def gone(self) -> bool: ...

    @property
    def path(self) -> bytes: ...

    @property
    def progress(self) -> int:
        """Grows with what has come from the client, and what was sent to it."""

    @property
    def waits_for_client(self) -> bool:
        """Its thread can go on only when the client takes, or sends, more."""

    @property
    def head(self) -> Head:
        """For the flight recorder, as is the connection's label."""

    def run(self) -> None:
        """In a thread. Raises nothing."""

    def leave(self) -> None:
        """In the loop, instead of `connection.finish`, for one that is `gone`."""

    def turn_away(self) -> None:
        """In the loop: it has waited for too long, and is not run."""

    def pass_on(self, give: Callable[[Ending, bytes], bool]) -> bool:
        """In the loop: have another worker run it; whether one will."""


Answer = tuple[Job, Any, Callable[[Any], None] | None]
"""What a thread gives back: the job, and bytes that finish it, or something to call in the loop with its argument."""


class _Thread:
    """One thread. `lock` is released to wake it, `job` is what it runs, `clock` counts the CPU time it has used;
    `record` puts a job on record, `rest` takes the last one off it."""

    __slots__ = ("clock", "job", "lock", "record", "rest")

    def __init__(self) -> None:
        self.lock: LockType = allocate_lock()
        self.lock.acquire()
        self.job: Job | None = None
        self.clock = 0
        self.record: Record
        self.rest: Callable[[], None]


class Pool:
    """At most `size` daemon threads, started when first needed. `on_idle` is called in each that goes to sleep."""

    def __init__(
        self,
        size: int,
        loop: asyncio.AbstractEventLoop,
        name: str,
        recorder: Recorder,
        on_idle: Callable[[], None],
        patience: Patience | None = None,
    ) -> None:
        self.jobs: deque[Job | None] = deque()
        self._patience = patience  # of those in `jobs`
        self.on_crowd: Callable[[Pool], None] = lambda _pool: None  # jobs wait, and no thread has been free for them
        self._newest_first = False
        self.outbox: deque[Answer] = deque()
        self.is_waking = False
        self._size = size
        self._loop = loop
        self._name = name
        self._recorder = recorder
        self._on_idle = on_idle
        self._threads: list[_Thread] = []
        self._idle: list[_Thread] = []
        self._lead: _Thread | None = None  # the one that has begun a row of jobs last, until it ends it
        self._row = 1  # jobs that take a `_TURN`, or fewer
        self._passed = 0.0  # the share of jobs that waited for something while the next was begun: a moving average
        self._is_impatient = False  # the thread that was woken last was woken because the lead computes and computes
        self._gathered = 0  # jobs that wait for more of them to come in this turn
        self._is_delivering = False
        self._is_watching = False
        self._first: Job | None = None  # of the jobs that waited at the last look
        self._looks = 0  # at the same one
        self._looked = 0.0
        self._cpu = 0.0  # of the lead, then

    # In the loop.

    def wake_soon(self) -> None:
        """Have threads woken at the end of this turn, for what was appended to `jobs`."""
        self.is_waking = True
        self._loop.call_soon(self._wake)

    @property
    def load(self) -> int:
        """Threads that are held, or are about to be by jobs that wait, as far as those will hold one."""
        return len(self._threads) - len(self._idle) + self._held_by(len(self.jobs))

    def keeps_up(self) -> bool:
        """Whether jobs wait no longer than `_SOON`."""
        first = self._next_job()
        return first is None or monotonic() - first.since < _SOON

    def is_running(self) -> bool:
        """Whether a job waits, or is being run."""
        return bool(self.jobs) or len(self._idle) < len(self._threads)

    def live(self) -> list[Job]:
        """Those jobs."""
        return [job for job in (*(thread.job for thread in self._threads), *self.jobs) if job is not None]

    @property
    def size(self) -> int:
        """Threads there can be."""
        return self._size

    def held(self) -> dict[str, Job]:
        """What threads are at now, by their names."""
        jobs = ((f"{self._name}-{number}", thread.job) for number, thread in enumerate(self._threads, 1))
        return {name: job for name, job in jobs if job is not None}

    def close(self) -> None:
        """Let every thread end after what it is doing; nobody waits for them."""
        self.jobs.extend([None] * len(self._threads))
        while self._idle:
            self._idle.pop().lock.release()

    def _wake(self) -> None:
        """Find threads for what waits, once no more comes."""
        waiting = len(self.jobs)
        held = self._held_by(waiting)
        if self._gathered < waiting < _GATHERED and self._lead is None and not held:
            self._gathered = waiting
            self.wake_soon()
            return
        self.is_waking = False
        self._gathered = 0
        self._wake_threads(min(waiting, held + (self._lead is None)))
        if waiting > 1 or self._lead is not None:
            self._watch()

    def _held_by(self, jobs: int) -> int:
        """Threads that so many jobs will hold, each while the next is begun."""
        return round(jobs * self._passed)

    def _wake_threads(self, number: int) -> None:
        for _ in range(number):
            thread = self._idle.pop() if self._idle else self._new_thread()
            if thread is None:
                break
            if self._lead is None:
                self._lead = thread
            thread.lock.release()

    def _new_thread(self) -> _Thread | None:
        if len(self._threads) == self._size:
            return None
        state = _Thread()
        name = f"{self._name}-{len(self._threads) + 1}"
        try:
            threading.Thread(target=self._work, args=(state,), name=name, daemon=True).start()
        except RuntimeError as error:
            sys.stderr.write(f"holdfast: a worker's thread {name} can't be started: {error}\n")
            return None
        self._threads.append(state)
        return state

    def _watch(self) -> None:
        if not self._is_watching:
            self._is_watching = True
            first = self._next_job()
            self._looks = self._looks + 1 if first is self._first else 0
            self._first = first
            self._looked = monotonic()
            self._cpu = self._lead_cpu()
            self._loop.call_later(_LOOK, self._look)

    def _look(self) -> None:
        """Jobs were left to the lead. If it has not taken one since the last look, it waits for something, and another
        thread is needed; or it computes, and another one would only be in its way, for a while."""
        self._is_watching = False
        self._deliver()
        if self._patience is not None:
            self._turn_away(self._patience)
        first = self._next_job()
        if first is not None and self.load >= self._size and monotonic() - first.since > _CROWDED:
            self.on_crowd(self)
            first = self._next_job()
        if first is None:
            return
        if first is self._first:
            computes = self._lead_cpu() - self._cpu > (monotonic() - self._looked) / 8  # others may want the CPU, too
            if not computes or self._looks >= _PATIENCE:
                self._is_impatient = computes
                self._looks = 0
                self._wake_threads(1)
        self._watch()

    def _turn_away(self, patience: Patience) -> None:
        """Those who have waited for too long. A job that is out of the deque is whoever's took it out."""
        now = monotonic()
        while (first := self._next_job()) is not None and (first.gone or patience.is_over(first.since, now)):
            try:
                job = self.jobs.popleft()
            except IndexError:
                break  # a thread was quicker
            if job is not first:
                self.jobs.appendleft(job)
            elif first.gone:
                first.leave()
            elif first.path in patience.exempt:
                self.jobs.append(first)  # the newest, who are first now
                break
            else:
                first.turn_away()
                patience.count()
        if not self.jobs:
            patience.relax(now)
        self._newest_first = patience.is_overloaded

    def part(self, give: Callable[[Ending, bytes], bool]) -> None:
        """Have other workers run what waits, the oldest first, as long as `give` gives it to them."""
        kept: list[Job | None] = []
        with contextlib.suppress(IndexError):  # threads take some, too
            for _ in range(len(self.jobs)):
                job = self.jobs.popleft()
                if job is None or job.gone or not job.pass_on(give):
                    kept.append(job)
        self.jobs.extendleft(reversed(kept))

    def _next_job(self) -> Job | None:
        try:
            return self.jobs[0]
        except IndexError:
            return None

    def _lead_cpu(self) -> float:
        """Seconds of CPU time that the lead has used."""
        lead = self._lead
        try:
            return clock_gettime(lead.clock) if lead is not None and lead.clock else 0.0
        except OSError:  # it has ended
            return 0.0

    def _deliver(self) -> None:
        self._is_delivering = False
        outbox = self.outbox
        while outbox:
            job, given, call = outbox.popleft()
            if call is not None:
                call(given)
            elif job.gone:
                job.leave()
            else:
                job.connection.finish(given)
        if self.jobs and not self.is_waking:
            self._wake()

    # In a thread.

    def post(self, job: Job, given: Any, call: Callable[[Any], None]) -> None:
        """Have `call(given)` called in the loop, after everything that was given back before. The last bytes of a job's
        answer it may append to `outbox` itself: the loop hears of them when the job has returned."""
        self.outbox.append((job, given, call))
        self._call_loop()

    def _call_loop(self) -> bool:
        """Have the outbox emptied, and then threads found for what waits. Whether that will be."""
        if not self._is_delivering:
            self._is_delivering = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                return False  # the loop has ended before this thread: nobody waits for the answer any more
        return True

    def _work(self, thread: _Thread) -> None:
        thread.clock = pthread_getcpuclockid(threading.get_ident())
        thread.record, thread.rest = self._recorder.thread(threading.get_ident())
        thread.lock.acquire()
        while self._run_row(thread):
            self._idle.append(thread)
            if self.jobs:
                self._call_loop()
            self._on_idle()
            thread.lock.acquire()

    def _run_row(self, thread: _Thread) -> bool:
        """Run what there is, for a while; False when the thread is to end."""
        jobs, outbox, record = self.jobs, self.outbox, thread.record
        if not jobs:
            self._end_row(thread)
            return True
        lead, self._lead = self._lead, thread
        passes = lead is not None and lead is not thread and lead.job is not None and not self._is_impatient
        self._is_impatient = False
        defers = self._passed < 1 / _MEMORY
        began = monotonic()
        count = 0
        while jobs and count < self._row:
            try:
                job = jobs.pop() if self._newest_first else jobs.popleft()
            except IndexError:
                break  # another thread was quicker
            if job is None:
                self._end_row(thread)
                return False
            thread.job = job
            record(job.connection.label, job.head.raw, job.since)
            job.run()
            count += 1
            if outbox and not (defers and jobs):
                self._call_loop()
        self._end_row(thread)
        if count:
            self._measure(count, monotonic() - began, passes)
        return True

    def _end_row(self, thread: _Thread) -> None:
        thread.job = None
        thread.rest()
        if self._lead is thread:
            self._lead = None

    def _measure(self, count: int, seconds: float, passes: bool) -> None:
        """So many jobs took so long in a row; the first of them was begun while another job waited for something."""
        row = int(count * _TURN / seconds) if seconds else count
        self._row = max(1, self._row // 2, min(row, 2 * self._row))
        self._passed += (passes - self._passed * min(count, _MEMORY)) / _MEMORY
