"""Blocked workers in words, for whoever is woken by them: what, for how long, at which request, in which line.

Invariant: one thing that happened is one event; its stack is a field, `stack`, a line of it an entry.
"""

from __future__ import annotations

from typing import Any

import msgspec

from supervisor.master.worker import Worker
from supervisor.messages.events import Level
from supervisor.messages.stacks import Frame, Serving, Stacks, ThreadStack
from supervisor.messages.wire import Stuck, Unstuck
from supervisor.observe.flight import Flight
from supervisor.observe.journal import Journal
from supervisor.observe.stacks import event_lines, own_frame, request_text, where
from supervisor.watch.stall import Ended


class StallNews:
    """One app's."""

    def __init__(self, journal: Journal, app: str) -> None:
        self._journal = journal
        self._app = app

    def blocked(self, worker: Worker, seconds: float, stacks: Stacks, home: str) -> None:
        """Its event loop has been blocked for so long, and still is."""
        about, fields = _about(stacks.of_loop, stacks, home, flight=worker.flight())
        text = f"its event loop is blocked, for {seconds:.1f} s so far{about}"
        lines = event_lines(stacks)
        self._tell("worker.stalled", text, worker, "warning", seconds=round(seconds, 3), stack=lines, **fields)

    def over(self, worker: Worker, ended: Ended) -> None:
        """It turns again."""
        text = f"its event loop turns again after {ended.seconds:.1f} s"
        if ended.times > 1:
            text = f"its event loop turns again: blocked {ended.times} times, {ended.seconds:.1f} s in all"
            text += f", {ended.longest:.1f} s at the longest"
        fields: dict[str, Any] = {"times": ended.times, "longest": round(ended.longest, 3)}
        self._tell("worker.recovered", text, worker, was="stalled", seconds=round(ended.seconds, 3), **fields)

    def stuck(self, worker: Worker, stuck: Stuck, stacks: Stacks, home: str) -> None:
        """A thread of it has been at one request for so long."""
        thread = next((it for it in stacks.threads if it.name == stuck.thread), None)
        about, fields = _about(thread, stacks, home, stuck.serving)
        text = f"thread {stuck.thread} has been at a request for {stuck.seconds:.1f} s, and nothing comes of it{about}"
        lines = event_lines(msgspec.structs.replace(stacks, threads=(thread,) if thread is not None else ()))
        fields |= {"thread": stuck.thread, "seconds": round(stuck.seconds, 3)}
        self._tell("worker.stalled", text, worker, "warning", stack=lines, **fields)

    def unstuck(self, worker: Worker, over: Unstuck) -> None:
        """That request is over."""
        request = f"{over.serving.method} {over.serving.path}"
        text = f"thread {over.thread} is done with {request} after {over.seconds:.1f} s"
        fields: dict[str, Any] = {"thread": over.thread, "seconds": round(over.seconds, 3)}
        fields["request"] = _fields(over.serving)
        self._tell("worker.recovered", text, worker, was="stalled", **fields)

    def doomed(self, worker: Worker, why: str, stacks: Stacks, home: str) -> None:
        """It is killed for that, and replaced."""
        about, fields = _about(stacks.of_loop, stacks, home, flight=worker.flight())
        lines = event_lines(stacks)
        self._tell("worker.stalled", f"to be killed: {why}{about}", worker, "error", why=why, stack=lines, **fields)

    def _tell(self, name: str, text: str, worker: Worker, level: Level = "info", **fields: Any) -> None:
        self._journal.event(
            name,
            text,
            level=level,
            app=self._app,
            slot=worker.slot,
            pid=worker.pid,
            generation=worker.generation,
            **fields,
        )


def _about(
    thread: ThreadStack | None,
    stacks: Stacks,
    home: str,
    serving: Serving | None = None,
    flight: Flight | None = None,
) -> tuple[str, dict[str, Any]]:
    """Where it is, and at which request: as text that goes on, and as fields."""
    serving = serving or (thread.serving if thread is not None else None) or _running(stacks)
    frame: Frame | None = own_frame(thread.frames, home) if thread is not None else None
    text = ""
    fields: dict[str, Any] = {}
    if frame is not None:
        text += f", in {where(frame, home)}"
        fields["at"] = where(frame, home)
    if serving is not None:
        text += f", serving {request_text(serving)}"
        fields["request"] = _fields(serving)
    elif flight is not None and flight.count:
        text += f", {flight}"
    if stacks.how == "none":
        text += f" ({stacks.note})"
    return text, fields


def _running(stacks: Stacks) -> Serving | None:
    """The request of the task that the loop runs."""
    return next((task.serving for task in stacks.tasks or () if task.is_running), None)


def _fields(serving: Serving) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(serving)
    return built
