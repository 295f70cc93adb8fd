"""What a process is doing: the stacks of its threads and of its asyncio tasks, as records.

Invariant: frames stand in the order of Python's tracebacks, the most recent call last.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Frame(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call. `source` is the text of its line, as far as it could be read."""

    file: str
    line: int
    function: str
    source: str = ""


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """A request that somebody is at. `path` is the target's, without its query. `age_s` counts from its head."""

    method: str
    path: str
    age_s: float
    request_id: str = ""


class ThreadStack(msgspec.Struct, frozen=True, kw_only=True):
    """One thread. `runs_loop`: the main one, which the event loop, and `threads = 1`'s app, run on."""

    name: str
    runs_loop: bool
    frames: tuple[Frame, ...]
    serving: Serving | None = None


class TaskStack(msgspec.Struct, frozen=True, kw_only=True):
    """One asyncio task, down to what it waits in. `is_running`: its last frames are those of the loop's thread."""

    name: str
    is_running: bool
    frames: tuple[Frame, ...]
    serving: Serving | None = None


Doing = Literal["runs", "may run", "waits", "in a thread"]
"""Where a request on record is: in the loop, and on it now; there, and perhaps on it; there, suspended; in a thread."""


class UnderWay(msgspec.Struct, frozen=True, kw_only=True):
    """A request that the app has not answered yet, as the flight recorder has it. `client` is an address, or empty."""

    serving: Serving
    doing: Doing
    client: str = ""


How = Literal["loop", "interrupted", "native", "none"]
"""Who has taken them: the worker's loop, its main thread wherever it was, faulthandler, or nobody."""


class Stacks(msgspec.Struct, frozen=True, kw_only=True):
    """All threads, the loop's first, and all tasks; None: could not be asked for. `note` says what is missing, and why.

    `left_out`: tasks beyond what one answer holds. `requests` stand in for tasks that are None, or from before;
    `others` is how many more there are, not yet with the app or too many for the recorder.
    """

    how: How
    threads: tuple[ThreadStack, ...] = ()
    tasks: tuple[TaskStack, ...] | None = None
    left_out: int = 0
    requests: tuple[UnderWay, ...] = ()
    others: int = 0
    note: str = ""

    @property
    def of_loop(self) -> ThreadStack | None:
        """The thread that the event loop runs on."""
        return next((thread for thread in self.threads if thread.runs_loop), None)


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """The tasks of a loop that turned, as they waited at `at` (CLOCK_MONOTONIC, seconds). `left_out` as in `Stacks`."""

    at: float
    tasks: tuple[TaskStack, ...]
    left_out: int = 0


class WorkerStacks(msgspec.Struct, frozen=True, kw_only=True):
    """The answer about one process. `blocked_s`: for how long its event loop has not turned; 0 when it does."""

    app: str
    slot: int
    pid: int
    generation: int
    state: str
    blocked_s: float
    stacks: Stacks
