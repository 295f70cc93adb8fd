"""The threads of a WSGI app."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import uvloop

from supervisor.serve.pool import Pool


class Work:
    """A job that posts what it is told to."""

    def __init__(self, run: Callable[[], object]) -> None:
        self._run = run
        self.got: list[tuple[bytes | None, bool]] = []

    def run(self) -> None:
        self._run()

    def posted(self, data: bytes | None, last: bool) -> None:
        self.got.append((data, last))


def test_every_job_is_run_and_every_post_is_delivered_in_order() -> None:
    async def main() -> None:
        pool = Pool(4, asyncio.get_running_loop(), "test")
        jobs: list[Work] = []

        def make() -> Work:
            job: Work

            def run() -> None:
                for number in range(3):
                    pool.post(job, b"%d" % number, number == 2)

            job = Work(run)
            return job

        for batch in range(200):
            for _ in range(batch % 7):
                jobs.append(make())
                pool.submit(jobs[-1])
            await asyncio.sleep(0)
        deadline = asyncio.get_running_loop().time() + 10
        while any(len(job.got) < 3 for job in jobs):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.001)
        assert all(job.got == [(b"0", False), (b"1", False), (b"2", True)] for job in jobs)
        pool.close()

    uvloop.run(main())


def test_blocked_jobs_leave_the_other_threads_to_others() -> None:
    async def main() -> None:
        pool = Pool(3, asyncio.get_running_loop(), "test")
        release = threading.Event()
        done = threading.Event()
        for _ in range(2):
            pool.submit(Work(lambda: release.wait(10)))
        await asyncio.sleep(0)
        for _ in range(100):
            done.clear()
            pool.submit(Work(done.set))
            assert await asyncio.to_thread(done.wait, 5)
        release.set()
        pool.close()

    uvloop.run(main())


def test_threads_are_started_as_needed_up_to_the_size_and_end_with_the_pool() -> None:
    async def main() -> None:
        pool = Pool(3, asyncio.get_running_loop(), "test")
        assert not pool._threads
        together = threading.Barrier(4)
        for _ in range(6):
            pool.submit(Work(lambda: together.wait(5)))
        for _ in range(2):
            await asyncio.to_thread(together.wait, 5)
        assert [thread.name for thread in pool._threads] == ["test-1", "test-2", "test-3"]
        pool.close()
        for thread in pool._threads:
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive()
            assert thread.daemon

    uvloop.run(main())


def test_a_post_after_the_loop_s_end_is_nobody_s_error() -> None:
    loop = asyncio.new_event_loop()
    pool = Pool(1, loop, "test")
    loop.close()
    pool.post(Work(lambda: None), b"late", True)


def test_jobs_behind_one_that_blocks_unexpectedly_are_rescued() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = Pool(3, loop, "test")
        deadline = loop.time() + 10
        while pool._pace > 0.0001:  # until its jobs are known to be quick
            assert loop.time() < deadline
            done = threading.Event()
            pool.submit(Work(done.set))
            assert await asyncio.to_thread(done.wait, 5)
        for _ in range(20):
            release, behind = threading.Event(), [threading.Event() for _ in range(5)]
            early = Work(lambda: None)
            first = Work(lambda early=early: pool.post(early, b"early", True))  # type: ignore[misc]
            pool.submit(first)
            pool.submit(Work(lambda release=release: release.wait(10)))  # type: ignore[misc]
            for event in behind:
                pool.submit(Work(event.set))
            for event in behind:
                assert await asyncio.to_thread(event.wait, 5)
            while not early.got:
                assert loop.time() < deadline + 10
                await asyncio.sleep(0.001)
            release.set()
        pool.close()

    uvloop.run(main())
