"""The WSGI app's threads as the heartbeat sees them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import msgspec

from supervisor.config.settings import AppSettings
from supervisor.kernel.board import Cell, private_row
from supervisor.messages.wire import Stuck, Unstuck
from supervisor.serve.wsgi.pool import Job, Pool
from supervisor.worker.threads import ThreadWatch


class Threads:
    """A pool of two threads, of which the test says what they are at."""

    size = 2

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    def held(self) -> dict[str, Job]:
        return dict(self.jobs)

    def put(self, thread: str, path: str, since: float) -> SimpleNamespace:
        job = SimpleNamespace(
            since=since,
            progress=0,
            waits_for_client=False,
            head=SimpleNamespace(method="GET", request=SimpleNamespace(path=path.encode())),
            trace={"request_id": "4f"},
        )
        self.jobs[thread] = cast(Job, job)
        return job


def test_a_stuck_thread_is_told_with_its_request_and_so_is_its_end() -> None:
    pool, row, told = Threads(), private_row(), list[Stuck | Unstuck]()
    settings = AppSettings(name="web", app="a:b", request_warn=1.0)
    watch = ThreadWatch(cast(Pool, pool), row, settings, told.append)
    pool.put("web-1", "/slow", 100.0)
    for tick in range(30):
        watch.look(100.0 + tick / 10, 0.1)
    (stuck,) = told
    assert isinstance(stuck, Stuck)
    assert (stuck.thread, stuck.serving.method, stuck.serving.path, stuck.serving.request_id) == (
        "web-1",
        "GET",
        "/slow",
        "4f",
    )
    assert 1.0 <= stuck.seconds < 1.2
    assert row[Cell.STUCK_SINCE_NS] == 0, "the other thread is free"
    pool.put("web-2", "/other", 103.0)
    watch.look(103.0, 0.1)
    assert row[Cell.STUCK_SINCE_NS] == 103 * 10**9
    pool.jobs.clear()
    watch.look(104.0, 0.1)
    assert isinstance(told[-1], Unstuck)
    assert (told[-1].thread, told[-1].serving.path, round(told[-1].seconds)) == ("web-1", "/slow", 4)
    assert row[Cell.STUCK_SINCE_NS] == 0


def test_with_the_warning_off_the_board_still_says_that_all_are_stuck() -> None:
    pool, row, told = Threads(), private_row(), list[Stuck | Unstuck]()
    settings = msgspec.structs.replace(AppSettings(name="web", app="a:b"), request_warn=0.0)
    watch = ThreadWatch(cast(Pool, pool), row, settings, told.append)
    pool.put("web-1", "/a", 100.0)
    pool.put("web-2", "/b", 100.5)
    for tick in range(200):
        watch.look(101.0 + tick / 10, 0.1)
    assert told == []
    assert row[Cell.STUCK_SINCE_NS] == 101 * 10**9
