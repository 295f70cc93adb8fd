"""Stacks for people: faulthandler's text read, lines of source added, the app's own code found, all of it rendered.

Invariant: what was written may be cut off anywhere, or be nonsense; then there is less to show, and never an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

import supervisor
from supervisor.kernel.source import Sources
from supervisor.messages.stacks import (
    Doing,
    Frame,
    Picture,
    Serving,
    Stacks,
    TaskStack,
    ThreadStack,
    UnderWay,
    WorkerStacks,
)
from supervisor.observe.flight import Flight
from supervisor.observe.flight import Serving as OnRecord

PICTURE = b'{"at":'  # what a record with the tasks of a loop that turns begins with
MAX_LINES = 200  # of the stacks in one event

_THREAD = re.compile(r"(Current t|T)hread (0x[0-9a-f]+)(?: \[(?P<name>[^\]]*)\])? .*\(most recent call first\):")
_FRAME = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')
_FATAL = "Fatal Python error: "
_OURS = os.path.dirname(supervisor.__file__) + "/"
_NOT_THE_APPS = re.compile(r"(^|/)(site|dist)-packages/|(^|/)lib(64)?/python3[^/]*/|^<frozen ")
_CALLS_THE_APP = re.compile(rf"^<frozen |^{re.escape(_OURS)}|/python3[^/]*/(runpy|threading)\.py$")
_DOING: dict[Doing, str] = {
    "runs": "holds the event loop",
    "may run": "waits, or holds the event loop",
    "waits": "waits",
    "in a thread": "in a thread",
}
_IDLE_IN = (os.path.join(_OURS, "serve/wsgi/pool.py"), "_work")  # a thread of the pool without a request


def parse_answer(data: bytes) -> Stacks | None:
    """What the worker's own Python code has written into its record; None: nothing (whole) yet."""
    for line in reversed(data.split(b"\n")[:-1]):
        if line.startswith(b'{"how":'):
            try:
                return msgspec.json.decode(line, type=Stacks)
            except msgspec.DecodeError:
                continue
    return None


def parse_picture(data: bytes) -> Picture | None:
    """What the worker's loop has left there while nobody asked; None: nothing, or no more."""
    line, end, _rest = data.partition(b"\n")
    if not (end and line.startswith(PICTURE)):
        return None
    try:
        return msgspec.json.decode(line, type=Picture)
    except msgspec.DecodeError:
        return None


def with_picture(stacks: Stacks, picture: Picture | None, now: float) -> Stacks:
    """What was to be had without the worker's Python, with the tasks as they were before."""
    if picture is None:
        return stacks
    aged = [
        task
        if (it := task.serving) is None
        else replace(task, serving=replace(it, age_s=round(it.age_s + now - picture.at, 3)))
        for task in picture.tasks
    ]
    note = f"the tasks are shown as they waited {now - picture.at:.1f} s ago, when its loop still turned; {stacks.note}"
    return replace(stacks, tasks=tuple(aged), left_out=picture.left_out, note=note)


def parse_dump(text: str) -> tuple[ThreadStack, ...]:
    """What faulthandler has written: its threads, the one first that took the signal, which is the main one."""
    found: list[tuple[bool, str, list[Frame]]] = []
    for line in text.splitlines():
        if (thread := _THREAD.match(line)) is not None:
            found.append((thread[1] == "Current t", thread["name"] or thread[2], []))
        elif found and (frame := _FRAME.match(line)) is not None:
            number = int(frame[2]) if frame[2].isdigit() else 0
            found[-1][2].append(Frame(frame[1], number, frame[3]))
    found.sort(key=lambda it: not it[0])
    return tuple(
        ThreadStack(name="" if is_current else name, runs_loop=is_current, frames=tuple(reversed(frames)))
        for is_current, name, frames in found
    )


def fatal_error(text: str) -> str:
    """What faulthandler calls the signal: "Segmentation fault"; empty if it has said nothing."""
    _, found, rest = text.partition(_FATAL)
    return rest.partition("\n")[0].strip() if found else ""


def with_sources(stacks: Stacks, sources: Sources) -> Stacks:
    """The same with the text of each line, where it was not there and can be read."""
    threads = tuple(replace(each, frames=_with_sources(each.frames, sources)) for each in stacks.threads)
    tasks = stacks.tasks
    if tasks is not None:
        tasks = tuple(replace(each, frames=_with_sources(each.frames, sources)) for each in tasks)
    return replace(stacks, threads=threads, tasks=tasks)


def with_requests(stacks: Stacks, flight: Flight) -> Stacks:
    """What was to be had without the worker's Python, with the requests that its flight recorder has: for the threads,
    and all, since tasks are lacking, or older."""
    threads = tuple(replace(each, serving=_on_record(each, flight)) for each in stacks.threads)
    requests = tuple(
        UnderWay(serving=_serving(each), doing=_doing(each, flight), client=each.client) for each in flight.requests
    )
    return replace(stacks, threads=threads, requests=requests, others=flight.others)


def own_frame(frames: tuple[Frame, ...], home: str) -> Frame | None:
    """The innermost call in the app's own code: in its directory `home`, else in none of the libraries."""
    inside = home.rstrip("/") + "/"
    names = [(it, it.file.removeprefix(inside)) for it in frames if not it.file.startswith(_OURS)]
    own = [(it, name) for it, name in names if not _NOT_THE_APPS.search(name)]
    at_home = [it for it, name in own if not name.startswith("/")]
    return next(reversed(at_home or [it for it, _ in own]), None)


def where(frame: Frame, home: str = "") -> str:
    """`app.py:31 in handler: time.sleep(20)`."""
    inside = home.rstrip("/") + "/"
    file = frame.file.removeprefix(inside) if home else frame.file
    return f"{file}:{frame.line} in {frame.function}" + (f": {frame.source}" if frame.source else "")


def request_text(serving: Serving) -> str:
    """`GET /report (2.3 s, id 4f..)`."""
    name = f", id {serving.request_id}" if serving.request_id else ""
    return f"{serving.method} {serving.path} ({serving.age_s:.1f} s{name})"


def event_lines(stacks: Stacks, first: str = "") -> list[str]:
    """What goes with an event: the thread called `first`, or else the loop's, then all others that do something."""
    lines: list[str] = []
    for thread in sorted(stacks.threads, key=lambda it: not (it.name == first if first else it.runs_loop)):
        if not _is_idle(thread):
            lines += _thread_lines(replace(thread, frames=_from_the_app_on(thread.frames)))
    return lines if len(lines) <= MAX_LINES else [*lines[:MAX_LINES], f".. and {len(lines) - MAX_LINES} lines more"]


def stacks_text(worker: WorkerStacks) -> Iterator[str]:
    """All of one process, for `holdfastctl stack`."""
    blocked = f", its event loop blocked for {worker.blocked_s:.1f} s" if worker.blocked_s else ""
    place = f"{worker.app}:{worker.slot}"
    yield f"{place}, pid {worker.pid}, generation {worker.generation}, {worker.state}{blocked}"
    yield ""
    stacks = worker.stacks
    for thread in stacks.threads:
        yield from _thread_lines(thread)
        yield ""
    for task in stacks.tasks or ():
        yield from _task_lines(task)
        yield ""
    if stacks.requests or stacks.others:
        yield from _request_lines(stacks)
        yield ""
    if stacks.left_out:
        yield f"{stacks.left_out} tasks more, which one answer has no room for"
    if stacks.note:
        yield f"note: {stacks.note}"


def _on_record(thread: ThreadStack, flight: Flight) -> Serving | None:
    if thread.runs_loop:
        found = flight.running if flight.is_certain else None
    else:
        found = flight.in_thread(int(thread.name, 16)) if thread.name.startswith("0x") else None
    return None if found is None else _serving(found)


def _serving(found: OnRecord) -> Serving:
    return Serving(method=found.method, path=found.path, age_s=found.age_s, request_id=found.request_id)


def _doing(found: OnRecord, flight: Flight) -> Doing:
    if found.thread:
        return "in a thread"
    if not flight.is_certain:
        return "may run"
    return "runs" if found is flight.running else "waits"


def _request_lines(stacks: Stacks) -> Iterator[str]:
    yield "requests under way, from the flight recorder:"
    for each in stacks.requests:
        client = f" from {each.client}" if each.client else ""
        yield f"  {request_text(each.serving)}{client}: {_DOING[each.doing]}"
    if stacks.others:
        yield f"  and {stacks.others} more, not yet with the app or too many for the recorder"


def _with_sources(frames: tuple[Frame, ...], sources: Sources) -> tuple[Frame, ...]:
    return tuple(it if it.source else replace(it, source=sources.line(it.file, it.line)) for it in frames)


def _thread_lines(thread: ThreadStack) -> list[str]:
    kind = "the loop's thread" if thread.runs_loop else "thread"
    name = f" {thread.name}" if thread.name else ""
    return [f"{kind}{name}{_at(thread.serving)}:", *_frame_lines(thread.frames)]


def _task_lines(task: TaskStack) -> list[str]:
    running = ", running" if task.is_running else ""
    return [f"task {task.name}{running}{_at(task.serving)}:", *_frame_lines(task.frames)]


def _frame_lines(frames: tuple[Frame, ...]) -> list[str]:
    return [f"  {where(frame)}" for frame in frames] or ["  no Python code"]


def _from_the_app_on(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Without what has called the app; everything where there is no more than that."""
    begins = next((at for at, it in enumerate(frames) if not _CALLS_THE_APP.search(it.file)), 0)
    return frames[begins:]


def _at(serving: Serving | None) -> str:
    return f", {request_text(serving)}" if serving is not None else ""


def _is_idle(thread: ThreadStack) -> bool:
    return bool(thread.frames) and (thread.frames[-1].file, thread.frames[-1].function.rpartition(".")[2]) == _IDLE_IN
