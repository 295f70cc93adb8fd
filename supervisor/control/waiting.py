"""Commands that wait: give the command, watch until it holds, tell each thing as it happens.

Invariant: whoever stops waiting (a deadline, Ctrl-C) leaves what was begun running, and says how to look again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from select import select as select_fds

from supervisor.control.client import ControlClient, EventStream
from supervisor.control.outcome import Command, Outcome, is_idle, judge, progress
from supervisor.control.rolls import RollWatch, Step, as_object, ending
from supervisor.control.targets import narrow, select, split
from supervisor.control.terminal import Terminal
from supervisor.errors import NoMasterError, RefusedError
from supervisor.messages.events import Event
from supervisor.messages.status import AppStatus, Begun, UpgradeStatus

POLL = 0.1  # seconds between two looks at what is waited for
IDLE_LOOKS = 10  # so many looks in a row at an app that stays stopped mean that it will
UPGRADE_PATIENCE = 2.0  # seconds without a master's answer after which there is none to come
QUIET = 1.0  # seconds without an event after which a roll's verdict is looked up
INTERRUPTED = 130  # as a shell has it: 128 + SIGINT


def change(client: ControlClient, terminal: Terminal, command: Command, target: str, timeout: float | None) -> int:
    """Start, stop or restart, wait until it holds for every app meant, and return the exit code."""
    began = time.monotonic()
    slot = None if target == "all" else split(target)[1]
    before = select(client.status(), [target])
    {"start": client.start, "stop": client.stop, "restart": client.restart}[command](target)
    wait = _Wait(client, terminal, command, slot, before)
    try:
        wait.run(None if timeout is None else began + timeout)
    except KeyboardInterrupt:
        terminal.complain(f"{target}: the {command} goes on without you; `holdfastctl status` tells how it went")
        return INTERRUPTED
    seconds = round(time.monotonic() - began, 3)
    if terminal.as_json:
        terminal.json({"apps": wait.outcomes, "seconds": seconds})
    return 0 if all(outcome.done for outcome in wait.outcomes.values()) else 1


class _Wait:
    """One command's waiting; `outcomes` fills, an app at a time."""

    def __init__(
        self,
        client: ControlClient,
        terminal: Terminal,
        command: Command,
        slot: int | None,
        before: dict[str, AppStatus],
    ) -> None:
        self._client = client
        self._terminal = terminal
        self._command = command
        self._slot = slot
        self._before = before
        self._began = time.monotonic()
        self._since = time.time()
        self._idle_looks = dict.fromkeys(before, 0)
        self.outcomes: dict[str, Outcome] = {}

    def run(self, deadline: float | None) -> None:
        """Look until every app is judged, or `deadline` (monotonic) has come."""
        with self._terminal.progress(f"{self._command} ...") as update:
            while True:
                late = deadline is not None and time.monotonic() >= deadline
                for name, state in self._look().items():
                    update(f"{name}: {state}")
                    if late:
                        text = f"{self._command} is not done yet ({state}); it goes on, and `status` tells how it went"
                        self._tell(name, Outcome(False, text))
                if len(self.outcomes) == len(self._before):
                    return
                time.sleep(POLL)

    def _look(self) -> dict[str, str]:
        """Judge what can be judged; the result is how the others are doing."""
        status = self._client.status()
        if status.state == "stopping" and self._command != "stop":
            raise RefusedError(f"the master is stopping; nothing will {self._command} any more")
        waiting = {}
        slots = None if self._slot is None else [self._slot]
        for name in self._before:
            if name in self.outcomes:
                continue
            now = narrow(status.apps[name], slots) if name in status.apps else None
            outcome = judge(self._command, self._slot, self._before[name], now) or self._given_up(name, now)
            if outcome is not None:
                self._tell(name, outcome)
            elif now is not None:
                waiting[name] = progress(self._slot, now)
        return waiting

    def _tell(self, name: str, outcome: Outcome) -> None:
        self.outcomes[name] = outcome
        if self._terminal.as_json:
            return
        who = name if self._slot is None else f"{name}:{self._slot}"
        if outcome.done:
            self._terminal.say(f"{who}: {outcome.text} ({time.monotonic() - self._began:.1f} s)")
        else:
            self._terminal.complain(f"{who}: {outcome.text}{self._why(name)}")

    def _given_up(self, name: str, now: AppStatus | None) -> Outcome | None:
        """An app that stays stopped although it was to be started: the master could not."""
        self._idle_looks[name] = self._idle_looks[name] + 1 if now is not None and is_idle(now) else 0
        if self._command == "stop" or self._idle_looks[name] < IDLE_LOOKS:
            return None
        return Outcome(False, f"the {self._command} has failed, it is stopped now")

    def _why(self, name: str) -> str:
        """The last error that the master has told about the app, rather of a worker than of the whole."""
        events = self._client.recent_events()
        errors = [event for event in events if event.app == name and event.level == "error" and event.ts >= self._since]
        causes = [event for event in errors if event.name != "app.failed"] or errors
        return f": {causes[-1].text}" if causes else ""


def roll(
    client: ControlClient,
    terminal: Terminal,
    begin: Callable[[Sequence[str]], dict[str, Begun]],
    app: str | None,
    *,
    no_wait: bool,
) -> int:
    """Begin rolls of one app or all, show their steps until each has its verdict, and return the exit code."""
    apps = [app] if app else []
    if no_wait:
        _tell_begun(terminal, begin(apps))
        return 0
    with contextlib.ExitStack() as opened:
        stream = None
        with contextlib.suppress(RefusedError):  # too many follow already: the steps are not shown, the end is
            stream = opened.enter_context(client.follow())
        watch = RollWatch(begin(apps))
        try:
            follow(client, terminal, watch, stream)
        except KeyboardInterrupt:
            names = " ".join(watch.pending)
            terminal.complain(
                f"the roll goes on without you; `holdfastctl status {names}` or `holdfastctl rolls` tells how it went, "
                "`holdfastctl events -f` shows it"
            )
            return INTERRUPTED
    if terminal.as_json:
        terminal.json({"apps": {name: as_object(roll) for name, roll in watch.rolls.items()}})
    return 0 if watch.is_committed else 1


def follow(client: ControlClient, terminal: Terminal, watch: RollWatch, stream: EventStream | None) -> None:
    """Show every step until all rolls have ended. A broken stream, or a quiet one, is made up for by snapshots."""
    told: set[str] = set()
    with terminal.progress("the new generation is on its way") as update:
        while watch.pending:
            event = None
            if stream is not None:
                try:
                    event = stream.read(QUIET)
                except EOFError:
                    stream = None
            else:
                time.sleep(POLL)
            if event is None:
                watch.look(client.status())
            else:
                _show(terminal, watch.see(event))
                if event.app in watch.pending:
                    update(_hint(event))
            _tell_ended(terminal, watch, told)


def upgrade(client: ControlClient, terminal: Terminal) -> UpgradeStatus:
    """Begin an upgrade, and wait until the new code serves the same path, or was refused."""
    number = client.upgrade().number
    unanswered_since: float | None = None
    with terminal.progress("the new code is tried") as update:
        while True:
            try:
                status = client.last_upgrade()
                unanswered_since = None
            except NoMasterError:  # in the middle of it; or it has failed
                unanswered_since = unanswered_since or time.monotonic()
                if time.monotonic() - unanswered_since > UPGRADE_PATIENCE:
                    raise
                status = None
            if status is not None and status.number == number:
                if status.verdict != "running":
                    return status
                update(status.reason or "the new code is tried")
            time.sleep(POLL)


def events(client: ControlClient) -> Iterator[Event]:
    """Every event there was and will be, also when the master is upgraded or another takes its place meanwhile."""
    latest = 0.0
    while True:
        with client.follow(recent=True) as stream:
            for event in stream:
                if event.ts > latest:
                    latest = event.ts
                    yield event
        deadline = time.monotonic() + UPGRADE_PATIENCE
        while not client.is_answering():
            if time.monotonic() > deadline:
                raise NoMasterError("the master has ended the stream of events; it is stopping, or has stopped")
            time.sleep(POLL)


def stop_master(client: ControlClient, terminal: Terminal) -> None:
    """Shut down, and return once the socket refuses and the process, where it can be seen from here, has ended."""
    process = _pidfd(client.process())
    try:
        client.shutdown()
        with terminal.progress("requests under way are finished"):
            while client.is_answering():
                time.sleep(POLL)
            if process is not None:
                select_fds([process], [], [])
    finally:
        if process is not None:
            os.close(process)


def _tell_ended(terminal: Terminal, watch: RollWatch, told: set[str]) -> None:
    for name, roll in watch.rolls.items():
        if roll.verdict == "running" or name in told or terminal.as_json:
            continue
        told.add(name)
        if roll.output:
            terminal.say(f"{name}: generation {roll.target} wrote:")
            terminal.quote(roll.output)
        terminal.say(ending(roll), "bold green" if roll.verdict == "committed" else "bold red")


def _tell_begun(terminal: Terminal, rolls: dict[str, Begun]) -> None:
    if terminal.as_json:
        terminal.json({"generations": {name: begun.generation for name, begun in rolls.items()}})
        return
    for name, begun in rolls.items():
        text = f"generation {begun.generation} is on its way; `holdfastctl status {name}` tells how it went"
        terminal.say(f"{name}: {text}")


def _show(terminal: Terminal, step: Step | None) -> None:
    if step is not None and not terminal.as_json:
        took = "" if step.seconds is None else f" ({step.seconds:.1f} s)"
        terminal.say(f"{step.app}: {step.text}{took}")


def _hint(event: Event) -> str:
    return f"{event.app}{'' if event.slot is None else f':{event.slot}'}: {event.text}"


def _pidfd(process: int | None) -> int | None:
    """A descriptor that becomes readable when the process ends (pidfd_open(2)); None if it can't be watched."""
    try:
        return None if process is None else os.pidfd_open(process)
    except OSError:
        return None
