"""What this process is doing, for whoever asks: every thread's and every task's stack, and the requests they are at.

Invariants:
- It answers from wherever the main thread is: in the event loop, or in the midst of anything, as a signal handler. Then
  it takes no lock that the app's code could hold, raises nothing, and changes nothing.
- While C code keeps the interpreter nobody can answer. For that time there is a picture of the waiting tasks in the
  record, at most a second or so older than the trouble. It takes `SHARE` of the worker's time at most, and it is there
  only as long as nothing else is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from types import FrameType
from typing import Any

import msgspec

from supervisor.kernel.source import Sources
from supervisor.kernel.stacks import SHOW, leave_stacks_in
from supervisor.messages.stacks import Frame, How, Picture, Serving, Stacks, TaskStack, ThreadStack
from supervisor.serve.asgi.turns import Turns
from supervisor.serve.wsgi.exchange import WsgiExchange

MAX_FRAMES = 100  # of one stack, the innermost
MAX_THREADS = 100
MAX_TASK_FRAMES = 5000  # of all tasks
MAX_TEXT = 300  # characters of a name or a path
PICTURE_EVERY = 1.0  # seconds, or less often
SHARE = 0.002  # of the time
PICTURED = 100  # tasks
PICTURED_FRAMES = 400

_EXCHANGE_IN = {Turns._run.__code__: "exchange", WsgiExchange.run.__code__: "self"}
"""The local variable that has the request, in those functions that call the app."""


class Witness:
    """Writes into the record that the master reads, at `show` and at the signal `SHOW`."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop) -> None:
        self._fd = fd
        self._loop = loop
        self._next_picture = 0.0
        self._size = 0  # of the record, when the last picture was written
        if fd >= 0:
            leave_stacks_in(fd)
            signal.signal(SHOW, self._on_signal)

    def show(self, depth: int) -> None:
        """Called in the loop, which is not blocked then. So many calls, from this one outwards, are left out: they are
        there to ask."""
        self._write("loop", sys._getframe(depth))

    def picture(self, now: float) -> None:
        """Called by the loop from time to time, with CLOCK_MONOTONIC: leave a picture for a time without answers."""
        if now < self._next_picture or self._fd < 0:
            return
        self._next_picture = now + PICTURE_EVERY
        with contextlib.suppress(Exception):  # an app's own kind of task, or no memory: then there is none
            size = os.fstat(self._fd).st_size
            if size not in (0, self._size):
                self._size = size  # somebody has been answered, and will have read it next time
                return
            picture = msgspec.json.encode(_picture(self._loop, now)) + b"\n"
            os.ftruncate(self._fd, 0)
            self._size = os.write(self._fd, picture)
            self._next_picture = max(self._next_picture, now + (time.monotonic() - now) / SHARE)

    def _on_signal(self, _number: int, frame: FrameType | None) -> None:
        self._write("interrupted", frame)

    def _write(self, how: How, frame: FrameType | None) -> None:
        try:
            stacks = take(how, self._loop, frame)
        except Exception as error:  # as of an app's own kind of task; whoever was interrupted must not have it
            stacks = Stacks(how=how, note=f"they could not be taken: {type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            os.write(self._fd, msgspec.json.encode(stacks) + b"\n")


def take(how: How, loop: asyncio.AbstractEventLoop, frame: FrameType | None) -> Stacks:
    """All stacks there are now; the calling thread's, which is the loop's, from `frame` outwards."""
    now, sources = time.monotonic(), Sources()
    frames = sys._current_frames()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    here = threading.get_ident()
    threads = [_thread(names.get(here, ""), frame, now, sources, runs_loop=True)]
    others = [ident for ident in frames if ident != here]
    threads += [
        _thread(names.get(ident, f"{ident:#x}"), frames[ident], now, sources) for ident in others[: MAX_THREADS - 1]
    ]
    tasks, left_out = _tasks(loop, now, sources)
    return Stacks(how=how, threads=tuple(threads), tasks=tasks, left_out=left_out)


def serving(exchange: Any, now: float, *, named: bool = True) -> Serving:
    """An exchange with the app, as others are told of it. Not `named`: with its id only if it has one already."""
    path = bytes(exchange.head.request.path).decode("ascii", "backslashreplace")
    age = round(now - exchange.since, 3)
    name = exchange.trace["request_id"] if named else exchange.trace.name
    return Serving(method=exchange.head.method, path=_text(path), age_s=age, request_id=name)


def _thread(
    name: str, frame: FrameType | None, now: float, sources: Sources, *, runs_loop: bool = False
) -> ThreadStack:
    calls = list(islice(_callers(frame), MAX_FRAMES))
    calls.reverse()
    return ThreadStack(
        name=_text(name),
        runs_loop=runs_loop,
        frames=_frames(calls, sources),
        serving=_served_in(calls, now),
    )


def _tasks(loop: asyncio.AbstractEventLoop, now: float, sources: Sources) -> tuple[tuple[TaskStack, ...], int]:
    """Those of requests first, the oldest before, and how many there was no room for."""
    tasks = [_task(task, now) for task in asyncio.all_tasks(loop)]
    tasks.sort(key=lambda it: (-it[1].age_s if it[1] is not None else 1.0, it[0].get_name()))
    current = asyncio.current_task(loop)
    found: list[TaskStack] = []
    room = MAX_TASK_FRAMES
    for task, served, calls in tasks:
        room -= len(calls)
        if room < 0:
            break
        frames = _frames(calls, sources)
        found.append(TaskStack(name=_text(task.get_name()), is_running=task is current, frames=frames, serving=served))
    return tuple(found), len(tasks) - len(found)


def _picture(loop: asyncio.AbstractEventLoop, now: float) -> Picture:
    """Without the text of lines, which whoever reads it can look up."""
    tasks = asyncio.all_tasks(loop)
    found, room = [], PICTURED_FRAMES
    for each in islice(tasks, PICTURED):
        task, served, calls = _task(each, now, named=False)
        room -= len(calls)
        if room < 0:
            break
        frames = _frames(calls, None)
        found.append(TaskStack(name=_text(task.get_name()), is_running=False, frames=frames, serving=served))
    return Picture(at=now, tasks=tuple(found), left_out=len(tasks) - len(found))


def _task(
    task: asyncio.Task[Any], now: float, *, named: bool = True
) -> tuple[asyncio.Task[Any], Serving | None, list[FrameType]]:
    calls = list(islice(_awaited(task.get_coro()), MAX_FRAMES))
    return task, _served_in(calls, now, named=named), calls


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _awaited(coroutine: Any) -> Iterator[FrameType]:
    """The frames of a suspended coroutine, generator or async generator, and of what each waits for."""
    while coroutine is not None:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(coroutine, f"{kind}_frame")), None)
        if kind is None:
            return
        frame = getattr(coroutine, f"{kind}_frame")
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)


def _served_in(calls: Iterable[FrameType], now: float, *, named: bool = True) -> Serving | None:
    """The request that this stack was begun for."""
    for frame in calls:
        if (name := _EXCHANGE_IN.get(frame.f_code)) and (exchange := frame.f_locals.get(name)) is not None:
            return serving(exchange, now, named=named)
    return None


def _frames(calls: Iterable[FrameType], sources: Sources | None) -> tuple[Frame, ...]:
    found = []
    for frame in calls:
        code, line = frame.f_code, frame.f_lineno or 0
        source = sources.line(code.co_filename, line) if sources is not None else ""
        found.append(Frame(_text(code.co_filename), line, _text(code.co_qualname), source))
    return tuple(found)


def _text(text: str) -> str:
    """What fits, and any encoding can hold."""
    return text[:MAX_TEXT].encode("utf-8", "backslashreplace").decode("utf-8")
