"""A survey on a running event loop: what it finds, that the loop goes on turning, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import Callable

import pytest

from supervisor.kernel.channel import MAX_MESSAGE
from supervisor.messages.heap import (
    MAX_ALLOCATIONS,
    MAX_CONTAINERS,
    MAX_KINDS,
    MAX_TEXT,
    Allocation,
    Container,
    Heap,
    Kind,
)
from supervisor.messages.wire import Surveyed, encode
from supervisor.worker import census, survey
from supervisor.worker.survey import Survey

HELD: list[object] = []


@pytest.fixture(autouse=True)
def let_go() -> None:
    HELD.clear()


def surveyed(seconds: float, work: Callable[[], None] = lambda: None, frames: int = 1) -> tuple[Heap, float]:
    """The heap, and by how much the loop was late at worst, while `work` was done every 5 ms."""
    worst = 0.0

    async def run() -> Heap:
        nonlocal worst
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Heap] = loop.create_future()
        Survey(loop, seconds, frames, found.set_result)
        while not found.done():
            work()
            began = time.monotonic()
            await asyncio.sleep(0.005)
            worst = max(worst, time.monotonic() - began - 0.005)
        return found.result()

    return asyncio.run(asyncio.wait_for(run(), 20)), worst


def leak() -> None:
    for number in range(20):
        HELD.append({"id": number, "name": f"number {number}"})  # noqa: PERF401  # the line that leaks


def leak_by_a_library() -> None:
    HELD.append(json.loads('{"a": [{"b": 1.5}, {"c": "dd"}]}'))  # the line that calls


def test_the_line_that_leaks_is_on_top_with_its_source() -> None:
    heap, _worst = surveyed(0.5, leak)
    top = heap.allocations[0]
    assert top.place.startswith(__file__)
    assert top.source.endswith("# the line that leaks")
    assert top.count >= len(HELD)
    assert heap.traced_bytes >= top.bytes > 50 * len(HELD)
    assert heap.seconds == pytest.approx(0.5, abs=0.3)


def test_with_more_frames_a_librarys_allocations_are_its_callers() -> None:
    heap, _worst = surveyed(0.5, leak_by_a_library, frames=6)
    (found,) = [each for each in heap.allocations if "# the line that calls" in each.source and "decoder.py" in each.by]
    assert found.place.startswith(__file__)


def test_it_leaves_nothing_on() -> None:
    surveyed(0.1, leak)
    assert not tracemalloc.is_tracing()


def test_without_tracing_there_are_types_and_containers() -> None:
    heap, _worst = surveyed(0.0)
    assert heap.allocations == ()
    assert heap.seconds == 0
    assert heap.objects > 1000
    assert len(heap.kinds) == MAX_KINDS
    assert heap.containers


def test_an_app_that_traces_by_itself_goes_on_to() -> None:
    tracemalloc.start()
    try:
        heap, _worst = surveyed(0.1, leak)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    assert heap.note == "the app traces its allocations itself, so they are not shown"
    assert heap.kinds


def test_many_allocations_end_the_tracing_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "MOST_TRACED", 100_000)
    heap, _worst = surveyed(10.0, leak)
    assert 0 < heap.seconds < 5
    assert heap.note.startswith("tracing ended after ")


def test_the_loop_turns_meanwhile_though_there_is_much_to_count() -> None:
    HELD.extend([number] for number in range(300_000))
    heap, worst = surveyed(0.2, leak)
    assert heap.objects > 300_000
    assert worst < 0.5  # the default of stall_warn
    assert heap.containers[0].length >= 300_000


def test_what_goes_wrong_is_told_and_ends_the_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_frames: object) -> None:
        raise RuntimeError("no such frame")

    monkeypatch.setattr(survey, "_place", fail)
    heap, _worst = surveyed(0.1, leak)
    assert heap.note == "given up: RuntimeError: no such frame"
    assert not tracemalloc.is_tracing()


def test_the_largest_answer_fits_into_a_message() -> None:
    text = "\N{GRINNING FACE}" * MAX_TEXT
    heap = Heap(
        seconds=1.0,
        note=text,
        allocations=(Allocation(place=text, source=text, by=text, bytes=2**60, count=2**60),) * MAX_ALLOCATIONS,
        kinds=(Kind(name=text, count=2**60, grown=2**60),) * MAX_KINDS,
        containers=(Container(kind=text, length=2**60, bytes=2**60, name=text, holds=text),) * MAX_CONTAINERS,
    )
    assert len(encode(Surveyed(heap))) < MAX_MESSAGE


def test_a_name_is_cut() -> None:
    assert len(census.name_of(type("X" * 1000, (), {}))) == MAX_TEXT
