"""What an app's settings have run at rolls: commands and functions, each in a process of its own.

Invariants:
- One at a time, in the order in which they were asked for: a migration never meets another of the same app.
- Each is told of exactly once, when it has ended; it ends by itself or, with all that it has started and that stays in
  its session, at `hook_timeout`.
- A function runs in the release's own interpreter: the master imports nothing of the app's.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from supervisor.config.settings import AppSettings
from supervisor.kernel.process import Ended, spawn
from supervisor.kernel.reactor import Reactor, Timer
from supervisor.master.children import Child, Children
from supervisor.master.confinement import confined, environment
from supervisor.master.pipes import Pipes
from supervisor.master.place import HOOK, Place
from supervisor.messages.status import RollStatus
from supervisor.observe.journal import Journal

HookName = Literal["before_roll", "after_commit", "after_rollback"]
Then = Callable[[str, list[str]], None]  # why it failed (empty: it did not), and the last lines of its stderr

MAX_REASON = 4096  # characters of a verdict's reason in the environment


class Job(msgspec.Struct, frozen=True):
    """One hook that is to be run."""

    name: HookName
    settings: AppSettings
    place: Place
    generation: int
    facts: Mapping[str, str]  # added to the environment
    then: Then
    is_wanted: Callable[[], bool] = lambda: True  # asked when its turn has come

    def command(self) -> list[str]:
        """What is run; a command needs no interpreter of the release's to change into its directory."""
        hook = getattr(self.settings, self.name)
        if isinstance(hook, str):
            command = [*self.place.command(HOOK), self.place.home, "call", hook]
        else:
            command = [*Place(self.place.home).command(HOOK), self.place.home, "exec", *hook]
        return confined(self.settings, self.place, HOOK, command)


def facts(name: HookName, app: str, roll: RollStatus, home: str) -> dict[str, str]:
    """What a hook finds in its environment about the roll; `home` is the directory of the release rolled to."""
    return {
        "HOLDFAST_HOOK": name,
        "HOLDFAST_APP": app,
        "HOLDFAST_ROLL": str(roll.number),
        "HOLDFAST_FROM": str(roll.from_),
        "HOLDFAST_TO": str(roll.to),
        "HOLDFAST_RELEASE": home,
        "HOLDFAST_VERDICT": roll.verdict,
        "HOLDFAST_REASON": roll.reason.replace("\0", "")[:MAX_REASON],
        "HOLDFAST_SECONDS": f"{roll.seconds:g}",
        "HOLDFAST_LEDGER": msgspec.json.encode(roll.ledger).decode(),
    }


class Hooks:
    """One app's."""

    def __init__(self, reactor: Reactor, children: Children, journal: Journal, app: str) -> None:
        self._reactor = reactor
        self._children = children
        self._journal = journal
        self._app = app
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._child: Child | None = None
        self._timer: Timer | None = None
        self._why = ""  # it was killed

    @property
    def are_busy(self) -> bool:
        """One runs, or waits for its turn."""
        return self._running is not None or bool(self._waiting)

    def run(self, job: Job) -> None:
        """Run it, after those that were asked for before."""
        self._waiting.append(job)
        self._next()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """The app is being stopped: end what runs, and forget what waits."""
        self._waiting.clear()
        self._signal(number, "the app was stopped")

    def _next(self) -> None:
        if self._running is not None or not self._waiting:
            return
        job = self._waiting.popleft()
        if not job.is_wanted():
            self._next()
            return
        self._running = job
        command, began = job.command(), self._reactor.now()
        pipes = Pipes(self._reactor, self._journal, self._app, job.generation, None)
        pipes.give_to(job.place.identity)
        try:
            pid = spawn(command, {**environment(job.settings, job.place), **job.facts}, pipes.write_ends)
        except OSError as error:
            self._end(job, f"{command[0]} can't be run: {error.strerror}", [])
            return
        finally:
            pipes.close_write_ends()
        pipes.pid = pid
        self._tell(f"{job.name} runs", job)
        self._why = ""
        self._child = self._children.watch(pid, lambda ended: self._on_end(job, pipes, began, ended))
        late = f"not done within hook_timeout, {job.settings.hook_timeout:g} s"
        self._timer = self._reactor.call_later(job.settings.hook_timeout, lambda: self._signal(signal.SIGKILL, late))

    def _signal(self, number: signal.Signals, why: str) -> None:
        if self._child is not None:
            self._why = self._why or why
            with contextlib.suppress(ProcessLookupError):  # not reaped yet, so that its group's number is still its own
                os.killpg(self._child.pid, number)

    def _on_end(self, job: Job, pipes: Pipes, began: float, ended: Ended) -> None:
        self._child = None
        if self._timer is not None:
            self._timer.cancel()
        pipes.drain()
        lines = pipes.last_errors()
        failure = "" if ended.is_clean else self._why or ": ".join([str(ended), *lines[-1:]])
        if not failure:
            self._tell(f"{job.name} is done after {self._reactor.now() - began:.1f} s", job)
        self._end(job, failure, lines)

    def _end(self, job: Job, failure: str, lines: list[str]) -> None:
        if failure:
            self._journal.event(
                "log", f"{job.name} failed: {failure}", level="error", app=self._app, generation=job.generation
            )
        self._running = None
        job.then(failure, lines)
        self._next()

    def _tell(self, text: str, job: Job) -> None:
        self._journal.event("log", text, app=self._app, generation=job.generation)
