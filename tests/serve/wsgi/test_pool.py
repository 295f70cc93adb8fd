"""The threads of a WSGI app."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from supervisor.kernel.board import private_row
from supervisor.kernel.recorder import Recorder
from supervisor.serve.wsgi import pool as pool_module
from supervisor.serve.wsgi.pool import Pool


class Client:
    """Keeps what it is answered."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.label = b"192.0.2.1"

    def finish(self, data: bytes = b"") -> None:
        self.got.append(data)


class Work:
    """A job that does what it is told to."""

    def __init__(self, do: Callable[[], object] = lambda: None) -> None:
        self._do = do
        self.connection = Client()
        self.since = time.monotonic()
        self.head: Any = SimpleNamespace(raw=b"GET /work HTTP/1.1\r\n\r\n")
        self.gone = False
        self.progress = 0
        self.waits_for_client = False
        self.path = b"/"
        self.left = 0
        self.begun = threading.Event()

    def run(self) -> None:
        self.begun.set()
        self._do()

    def leave(self) -> None:
        self.left += 1

    def turn_away(self) -> None:
        self.left += 1

    def pass_on(self, give: Callable[..., bool]) -> bool:
        return give(self, b"")


def submit(pool: Pool, *jobs: Work) -> None:
    """As an exchange does it."""
    for job in jobs:
        pool.jobs.append(job)
        if not pool.is_waking:
            pool.wake_soon()


def spin(seconds: float) -> None:
    """Use so much CPU time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def run(size: int, main: Callable[[Pool], Coroutine[Any, Any, None]]) -> None:
    async def wrapped() -> None:
        pool = Pool(size, asyncio.get_running_loop(), "test", Recorder(private_row()), lambda: None)
        try:
            await asyncio.wait_for(main(pool), 30)
        finally:
            pool.close()

    uvloop.run(wrapped())


async def eventually(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  (nothing says when it has come true)
        await asyncio.sleep(0.001)


@pytest.fixture
def _busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that compute get all the CPU time there is, whatever else this machine does."""
    monkeypatch.setattr(pool_module, "clock_gettime", lambda _: time.monotonic())


def test_every_job_is_run_and_all_it_gives_back_is_delivered_in_order() -> None:
    async def main(pool: Pool) -> None:
        jobs: list[Work] = []

        def make() -> Work:
            job: Work

            def give_back() -> None:
                for number in range(3):
                    pool.post(job, b"%d" % number, job.connection.got.append)
                pool.outbox.append((job, b"end", None))

            job = Work(give_back)
            return job

        for batch in range(200):
            for _ in range(batch % 7):
                jobs.append(make())
                submit(pool, jobs[-1])
            await asyncio.sleep(0)
        await eventually(lambda: all(len(job.connection.got) == 4 for job in jobs))
        assert all(job.connection.got == [b"0", b"1", b"2", b"end"] for job in jobs)
        assert not any(job.left for job in jobs)

    run(4, main)


def test_a_job_whose_client_has_gone_leaves() -> None:
    async def main(pool: Pool) -> None:
        job = Work(lambda: pool.outbox.append((job, b"late", None)))
        job.gone = True
        submit(pool, job)
        await eventually(lambda: job.left)
        assert not job.connection.got

    run(2, main)


def test_quick_jobs_share_one_thread_and_hold_none() -> None:
    async def main(pool: Pool) -> None:
        for _ in range(100):
            jobs = [Work() for _ in range(20)]
            submit(pool, *jobs)
            await eventually(lambda jobs=jobs: all(job.begun.is_set() for job in jobs))  # type: ignore[misc]
            assert pool.load <= 1
        assert len(pool._threads) <= 2  # a busy machine may make who computes look as if it waited
        await eventually(lambda: not pool.is_running())
        assert pool.load == 0
        assert not pool.live()

    run(8, main)


def test_jobs_that_wait_for_something_have_a_thread_each() -> None:
    async def main(pool: Pool) -> None:
        together = threading.Barrier(5)
        for _ in range(6):
            jobs = [Work(lambda: together.wait(10)) for _ in range(4)]
            submit(pool, *jobs)
            await eventually(lambda jobs=jobs: all(job.begun.is_set() for job in jobs))  # type: ignore[misc]
            assert pool.load == 4
            assert set(map(id, pool.live())) == set(map(id, jobs))
            await asyncio.to_thread(together.wait, 10)
            await eventually(lambda: not pool.is_running())
        assert len(pool._threads) == 4

    run(4, main)


def test_jobs_beyond_the_threads_are_a_load_too_once_jobs_are_known_to_wait() -> None:
    async def main(pool: Pool) -> None:
        release = threading.Event()
        submit(pool, *(Work(lambda: release.wait(10)) for _ in range(40)))
        await eventually(lambda: pool.load >= 3)
        release.set()
        await eventually(lambda: not pool.is_running())
        pool._passed = 1.0
        release.clear()
        submit(pool, *(Work(lambda: release.wait(10)) for _ in range(40)))
        assert pool.load == 40
        assert pool.keeps_up()
        await eventually(lambda: not pool.keeps_up())
        release.set()
        await eventually(lambda: not pool.is_running())
        assert pool.keeps_up()

    run(3, main)


def test_blocked_jobs_leave_the_other_threads_to_others() -> None:
    async def main(pool: Pool) -> None:
        release = threading.Event()
        submit(pool, *(Work(lambda: release.wait(10)) for _ in range(2)))
        await asyncio.sleep(0)
        for _ in range(100):
            job = Work()
            submit(pool, job)
            await eventually(job.begun.is_set)
        release.set()

    run(3, main)


def test_jobs_behind_one_that_blocks_unexpectedly_are_rescued_and_so_are_answers() -> None:
    async def main(pool: Pool) -> None:
        for _ in range(20):
            submit(pool, *(Work() for _ in range(10)))
            await eventually(lambda: not pool.is_running())
            release = threading.Event()
            early = Work(lambda: pool.outbox.append((early, b"early", None)))  # noqa: B023
            behind = [Work() for _ in range(5)]
            submit(pool, early, Work(lambda release=release: release.wait(10)), *behind)  # type: ignore[misc]
            await eventually(lambda behind=behind: all(job.begun.is_set() for job in behind))  # type: ignore[misc]
            await eventually(lambda early=early: early.connection.got)  # type: ignore[misc]
            release.set()

    run(3, main)


@pytest.mark.usefixtures("_busy")
def test_jobs_that_compute_are_run_one_after_the_other_and_the_loop_has_its_turns() -> None:
    async def main(pool: Pool) -> None:
        jobs = [Work(lambda: spin(0.005)) for _ in range(20)]
        submit(pool, *jobs)
        turns = 0
        while not all(job.begun.is_set() for job in jobs):
            await asyncio.sleep(0)
            turns += 1
        assert len(pool._threads) <= 3  # of eight: on a busy machine who computes looks, now and then, as if it waited
        assert turns > 10

    run(8, main)


@pytest.mark.usefixtures("_busy")
def test_a_job_that_computes_on_and_on_does_not_keep_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_PATIENCE", 3)

    async def main(pool: Pool) -> None:
        over = threading.Event()

        def compute() -> None:
            while not over.is_set():
                spin(0.001)

        behind = Work()
        submit(pool, Work(compute), behind)
        await eventually(behind.begun.is_set)
        over.set()
        await eventually(lambda: not pool.is_running())
        assert pool._passed == 0, "computing is not waiting"

    run(4, main)


def test_threads_are_started_as_needed_up_to_the_size_and_end_with_the_pool() -> None:
    async def main(pool: Pool) -> None:
        assert not pool._threads
        together = threading.Barrier(4)
        threads: list[threading.Thread] = []

        def meet() -> None:
            threads.append(threading.current_thread())
            together.wait(5)

        submit(pool, *(Work(meet) for _ in range(6)))
        for _ in range(2):
            await asyncio.to_thread(together.wait, 5)
        assert {thread.name for thread in threads} == {"test-1", "test-2", "test-3"}
        assert all(thread.daemon for thread in threads)
        pool.close()
        for thread in threads:
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive()

    run(3, main)


def test_a_pool_does_with_the_threads_that_can_be_started(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name in ("test-2", "test-3"):
            raise RuntimeError("can't start new thread")
        real(thread)

    async def main(pool: Pool) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        pool._passed = 1.0
        jobs = [Work(lambda: time.sleep(0.01)) for _ in range(5)]
        submit(pool, *jobs)
        await eventually(lambda: all(job.begun.is_set() for job in jobs))
        assert len(pool._threads) == 1

    run(3, main)
    assert "holdfast: a worker's thread test-2 can't be started: can't start new thread\n" in capfd.readouterr().err


def test_what_is_given_back_after_the_loop_s_end_is_nobody_s_error() -> None:
    loop = asyncio.new_event_loop()
    pool = Pool(1, loop, "test", Recorder(private_row()), lambda: None)
    loop.close()
    pool.post(Work(), b"late", lambda _: None)
