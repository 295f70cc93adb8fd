"""The narrow door through which the control API reaches the master: frozen snapshots out, few commands in.

Invariant: nothing behind this protocol blocks or waits, and what grows with what there is comes as an iterator, a
little at a time. A command is accepted or refused (`RefusedError`, one line for a person) at once; how it went is seen
in `status` and in the events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from supervisor.errors import RefusedError
from supervisor.messages.crash import CrashSummary
from supervisor.messages.events import Event
from supervisor.messages.heap import Heap
from supervisor.messages.stacks import WorkerStacks
from supervisor.messages.status import Begun, RollStatus, Status, UpgradeStatus


class Supervision(Protocol):
    """What the master offers. A target is `APP`, `APP:SLOT` or `all`; an unknown one raises `RefusedError`."""

    def status(self) -> Status:
        """A snapshot of everything."""

    def metrics(self) -> Iterator[str]:
        """Prometheus text exposition, version 0.0.4, of one moment, a family at a time."""

    def reload(self, apps: Sequence[str]) -> dict[str, Begun]:
        """Begin a rolling restart of these apps (none named: of all)."""

    def rollback(self, apps: Sequence[str]) -> dict[str, Begun]:
        """Begin to return these apps (none named: all that can) to the release before the last committed one."""

    def rolls(self) -> dict[str, Sequence[RollStatus]]:
        """The last twenty rolls of each app, oldest first."""

    def crashes(self) -> Iterator[CrashSummary]:
        """The crash reports there are, the newest last, each looked up when its turn comes."""

    def crash(self, name: str) -> bytes:
        """One crash report's JSON, by its id or a part of it, at its beginning or end, that no other has."""

    def start(self, target: str) -> None:
        """Start what is stopped. Refused when it runs."""

    def stop(self, target: str) -> None:
        """Drain and stop. Refused when it is stopped."""

    def restart(self, target: str) -> None:
        """An app: stop, then start, with its code imported anew. A worker: replaced, the new one ready first."""

    def scale(self, app: str, workers: str) -> int:
        """Set the number of workers: `N`, `+N`, `-N`, or `auto` for the range of the settings. Returns the number."""

    def signal(self, name: str, target: str) -> list[int]:
        """Send a signal (`USR1`, `SIGUSR1`, `10`) to a worker, or to all of an app's. Returns the pids it went to."""

    def upgrade(self) -> UpgradeStatus:
        """Begin to become the holdfast that is installed now, in place. Refused while that is under way."""

    def last_upgrade(self) -> UpgradeStatus | None:
        """How the last one went, or goes; None when there was none."""

    def stack(self, target: str, on_answer: Callable[[Sequence[WorkerStacks]], None]) -> None:
        """Have all processes of one slot tell what they do, the one that serves first; `on_answer` is called within
        seconds, also when they are blocked."""

    def heap(self, target: str, seconds: float, frames: int, on_answer: Callable[[Heap | RefusedError], None]) -> None:
        """Have one worker find out what it holds, tracing allocations for `seconds` with so many `frames` of the stack;
        `on_answer` is called later."""

    def shutdown(self) -> None:
        """Stop everything gracefully, as TERM does."""

    def recent_events(self) -> Sequence[Event]:
        """The last events, oldest first."""

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event from now on; the result ends that. A listener must not block or raise."""
