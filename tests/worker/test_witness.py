"""Pictures of the tasks that wait, left in the record while nobody asks."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from supervisor.kernel.stacks import StackRecord
from supervisor.messages.stacks import Picture
from supervisor.observe.stacks import parse_answer, parse_picture
from supervisor.worker.witness import PICTURE_EVERY, PICTURED, Witness


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Iterator[StackRecord]:
    monkeypatch.setattr("supervisor.worker.witness.leave_stacks_in", lambda fd: None)  # not of this process
    monkeypatch.setattr("supervisor.worker.witness.signal", SimpleNamespace(signal=lambda *_: None))
    record = StackRecord("test")
    yield record
    record.close()


def picture_of(record: StackRecord) -> Picture:
    picture = parse_picture(record.read())
    assert picture is not None
    return picture


async def _deep(event: asyncio.Event) -> None:
    await event.wait()


async def _waits(event: asyncio.Event) -> None:
    await _deep(event)


async def _with_tasks(count: int, act: object) -> None:
    event = asyncio.Event()
    tasks = [asyncio.create_task(_waits(event), name=f"t{number}") for number in range(count)]
    await asyncio.sleep(0)
    act(asyncio.get_running_loop())  # type: ignore[operator]
    event.set()
    await asyncio.gather(*tasks)


def test_who_waits_is_noted_down_to_where(record: StackRecord) -> None:
    def act(loop: asyncio.AbstractEventLoop) -> None:
        Witness(record.fd, loop).picture(5.0)

    asyncio.run(_with_tasks(1, act))
    picture = picture_of(record)
    (task,) = [task for task in picture.tasks if task.name == "t0"]
    assert [frame.function for frame in task.frames] == ["_waits", "_deep", "Event.wait"]
    assert task.frames[0].file == __file__
    assert (picture.at, picture.left_out) == (5.0, 0)


def test_there_is_one_picture_at_a_time_and_one_a_second(record: StackRecord) -> None:
    def act(loop: asyncio.AbstractEventLoop) -> None:
        witness, now = Witness(record.fd, loop), time.monotonic()
        seen = []
        for tenth in range(10 * 3):
            witness.picture(now + tenth / 10)
            seen.append(picture_of(record).at)
        assert len(set(seen)) == 3
        assert record.read().count(b"\n") == 1

    asyncio.run(_with_tasks(1, act))


def test_of_very_many_some_are_left_out(record: StackRecord) -> None:
    def act(loop: asyncio.AbstractEventLoop) -> None:
        Witness(record.fd, loop).picture(5.0)

    asyncio.run(_with_tasks(3 * PICTURED, act))
    picture = picture_of(record)
    assert len(picture.tasks) <= PICTURED
    assert len(picture.tasks) + picture.left_out == 3 * PICTURED + 1  # and the test's own
    assert record.size < 100_000


def test_what_takes_long_is_done_seldom(record: StackRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(loop: asyncio.AbstractEventLoop) -> None:
        witness, began = Witness(record.fd, loop), time.monotonic()
        monkeypatch.setattr(
            "supervisor.worker.witness.time", SimpleNamespace(monotonic=lambda: began + 0.010)
        )  # so long it took
        at = set()
        for seconds in range(7):
            witness.picture(began + seconds)
            at.add(round(picture_of(record).at - began))
        assert at in ({0, 5, 6}, {0, 6})  # 10 ms are two thousandths of 5 s

    asyncio.run(_with_tasks(1, act))


def test_an_answer_stays_until_whoever_asked_has_read_it(record: StackRecord) -> None:
    def act(loop: asyncio.AbstractEventLoop) -> None:
        witness, now = Witness(record.fd, loop), time.monotonic()
        witness.picture(now)
        record.clear()
        witness.show(1)
        witness.picture(now + PICTURE_EVERY)
        assert parse_answer(record.read()) is not None
        assert parse_picture(record.read()) is None
        witness.picture(now + 2 * PICTURE_EVERY)
        assert picture_of(record).at == now + 2 * PICTURE_EVERY

    asyncio.run(_with_tasks(1, act))


def test_a_record_that_cannot_be_written_harms_nobody(record: StackRecord) -> None:
    def act(loop: asyncio.AbstractEventLoop) -> None:
        witness = Witness(record.fd, loop)
        ours, theirs = os.pipe()
        os.close(theirs)
        witness._fd = ours
        witness.picture(5.0)
        os.close(ours)

    asyncio.run(_with_tasks(1, act))
