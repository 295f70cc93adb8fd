"""Has a command come true? What an app was before it and what it is now, judged: done, failed, or not yet. Pure.

Invariant: the judgement needs nothing but two snapshots, so a lost event or a slow reader can't make it wrong.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from supervisor.control.targets import is_running, narrow, pids, ready
from supervisor.messages.status import AppStatus

Command = Literal["start", "stop", "restart"]


class Outcome(msgspec.Struct, frozen=True):
    """`text` goes on after the target's name: `started: 4 workers are ready`."""

    done: bool
    text: str


def judge(command: Command, slot: int | None, before: AppStatus, now: AppStatus | None) -> Outcome | None:
    """None while there is still something to wait for. `now` is None when the app is no longer there."""
    if now is None:
        return Outcome(command == "stop", "stopped" if command == "stop" else "is no longer in the settings")
    if command == "stop":
        return _stopped(slot, now)
    if command == "restart" and set(pids(before)) & set(pids(now)):
        return None
    past = "started" if command == "start" else "restarted"
    if slot is not None:
        return Outcome(True, past) if any(map(is_running, now.workers)) else _failed(past, now)
    there, slots = ready(narrow(now, wanted(now)))
    if now.state == "running" and there == slots > 0:
        return Outcome(True, f"{past}: {_workers(there)} ready")
    return _failed(past, now)


def progress(slot: int | None, now: AppStatus) -> str:
    """Where things stand, for a person who waits."""
    if slot is not None:
        return ", ".join(f"{worker.state} (pid {worker.pid})" if worker.pid else worker.state for worker in now.workers)
    there, slots = ready(now)
    return f"{now.state}, {there} of {slots} workers ready"


def is_idle(now: AppStatus) -> bool:
    """Stopped, with nothing on its way: between the two halves of a restart for a moment, or for good."""
    return not pids(now) and (now.state == "stopped" or not wanted(now))


def wanted(now: AppStatus) -> set[int]:
    """The slots that somebody serves or shall serve: all but those that were stopped by hand."""
    return {worker.slot for worker in now.workers if worker.state != "stopped"}


def _stopped(slot: int | None, now: AppStatus) -> Outcome | None:
    if pids(now) or (slot is None and now.state != "stopped"):
        return None
    return Outcome(True, "stopped")


def _failed(past: str, now: AppStatus) -> Outcome | None:
    return Outcome(False, f"could not be {past}: it has failed and is being retried") if now.state == "failed" else None


def _workers(count: int) -> str:
    return "1 worker is" if count == 1 else f"{count} workers are"
