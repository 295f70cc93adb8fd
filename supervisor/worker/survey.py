"""What a worker holds, found out while it serves: `holdfastctl heap`.

Invariants:
- One survey at a time; when it is over tracemalloc is off again, and nothing of it is left.
- The event loop is never kept for long: counting is done in slices of `SLICE` seconds with a pause of `PAUSE` between
  them. What can't be sliced is bounded otherwise: the snapshot of traces by `MOST_TRACED`, at which tracing ends
  early. Only the listing of all objects is as long as they are many, some 10 ms for a million.

A thread would not do: it holds the interpreter for 5 ms at a time, as often as it can get it, and its long calls block
the loop all the same. A forked copy would have all the time in the world, and twice the memory, on a worker that may
have none left; and it would fork the app's threads and locks.
"""

from __future__ import annotations

import asyncio
import linecache
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from supervisor.messages.heap import MAX_ALLOCATIONS, MAX_TEXT, Allocation, Heap
from supervisor.worker.census import Census, is_library

SLICE = 0.002  # seconds
PAUSE = 0.004
MOST_TRACED = 6 * 2**20  # bytes that tracemalloc itself takes: some 100,000 allocations, and 50 ms for their snapshot
LOOK_EVERY = 0.05
AT_ONCE = 500  # traces between two yields

Frame = tuple[str, int]  # file and line
Frames = tuple[Frame, ...]  # the innermost first
Sums = dict[Frames, tuple[int, int]]  # bytes and blocks
OnDone = Callable[[Heap], None]


class Survey:
    """Begins at once; `on_done` is called from the loop, once, with what was found."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, frames: int, on_done: OnDone) -> None:
        self._loop = loop
        self._seconds = seconds
        self._frames = frames
        self._on_done = on_done
        self._longest = 0.0
        self._note = ""
        self._before: Census | None = None
        self._began = 0.0
        self._traced = 0.0
        self._sums: Sums = {}
        if seconds and tracemalloc.is_tracing():
            self._note = "the app traces its allocations itself, so they are not shown"
            self._seconds = 0.0
        if self._seconds:
            before = Census()
            self._run(before.take(), lambda: self._trace(before))
        else:
            self._count()

    def _trace(self, before: Census) -> None:
        before.let_go()
        self._before = before
        tracemalloc.start(self._frames)
        self._began = time.monotonic()
        self._loop.call_later(min(LOOK_EVERY, self._seconds), self._watch)

    def _watch(self) -> None:
        self._traced = time.monotonic() - self._began
        is_full = tracemalloc.get_tracemalloc_memory() > MOST_TRACED
        if self._traced < self._seconds and not is_full:
            self._loop.call_later(min(LOOK_EVERY, self._seconds - self._traced), self._watch)
            return
        if is_full and self._traced < self._seconds:
            self._note = f"tracing ended after {self._traced:.1f} s: more allocations are kept than can be traced"
        began = time.perf_counter()
        traces = tracemalloc.take_snapshot().traces if tracemalloc.is_tracing() else ()
        tracemalloc.stop()
        self._longest = max(self._longest, time.perf_counter() - began)
        self._run(self._add_up(getattr(traces, "_traces", traces)), self._count)

    def _add_up(self, traces: Iterable[Any]) -> Iterator[None]:
        """By stack. The list behind `Snapshot.traces` is read as it is: an object for each takes ten times as long."""
        for number, trace in enumerate(traces):
            if number % AT_ONCE == 0:
                yield
            _domain, size, frames, *_ = trace
            size_before, blocks = self._sums.get(frames, (0, 0))
            self._sums[frames] = size_before + size, blocks + 1

    def _count(self) -> None:
        census = Census(self._before)
        self._run(census.take(), lambda: self._finish(census))

    def _finish(self, census: Census) -> None:
        sums = {
            frames: found for frames, found in self._sums.items() if all(name != __file__ for name, _line in frames)
        }
        found: list[Allocation] = []
        self._run(allocations(sums, found), lambda: self._tell(census, sums, tuple(found)))

    def _tell(self, census: Census, sums: Sums, found: tuple[Allocation, ...]) -> None:
        heap = Heap(
            seconds=round(self._traced, 3),
            note=self._note,
            traced_bytes=sum(size for size, _count in sums.values()),
            traced_count=sum(count for _size, count in sums.values()),
            allocations=found,
            objects=census.counts.total(),
            kinds=census.kinds(),
            containers=census.largest(),
            longest_ms=round(1000 * self._longest, 1),
        )
        self._on_done(heap)

    def _give_up(self, error: Exception) -> None:
        tracemalloc.stop()
        self._on_done(Heap(seconds=0.0, note=f"given up: {type(error).__name__}: {error}"[:MAX_TEXT]))

    def _run(self, work: Iterator[None], then: Callable[[], None]) -> None:
        """Do `work` in slices, then what comes next."""
        began = time.perf_counter()
        is_done = False
        try:
            while not is_done and time.perf_counter() - began < SLICE:
                is_done = next(work, self) is self
        except Exception as error:  # what lies in memory may be anything
            self._give_up(error)
            return
        self._longest = max(self._longest, time.perf_counter() - began)
        self._loop.call_later(PAUSE, *((then,) if is_done else (self._run, work, then)))


def allocations(sums: Sums, found: list[Allocation]) -> Iterator[None]:
    """Into `found`, by place, the largest first."""
    sizes: Counter[tuple[Frame, Frame]] = Counter()
    counts: Counter[tuple[Frame, Frame]] = Counter()
    for number, (frames, (size, count)) in enumerate(sums.items()):
        if number % AT_ONCE == 0:
            yield
        key = _place(frames), frames[0]
        sizes[key] += size
        counts[key] += count
    for (place, by), size in sizes.most_common(MAX_ALLOCATIONS):
        source = linecache.getline(*place).strip()[:MAX_TEXT]
        inner = _cut(f"{by[0]}:{by[1]}") if by != place else ""
        where = _cut(f"{place[0]}:{place[1]}")
        found.append(Allocation(place=where, source=source, by=inner, bytes=size, count=counts[place, by]))
        yield
    linecache.clearcache()


def _place(frames: Frames) -> Frame:
    """The innermost line that is neither a library's nor ours; where there is none, the innermost."""
    return next((frame for frame in frames if not is_library(frame[0])), frames[0])


def _cut(text: str) -> str:
    """The end of a path tells more than its beginning."""
    return text if len(text) <= MAX_TEXT else "…" + text[1 - MAX_TEXT :]
