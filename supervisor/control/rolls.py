"""Following rolls from the outside: events and snapshots in, steps for a person and a verdict an app out. Pure.

Invariant: every roll that is watched ends in `committed` or `rolled_back`, also when events were lost: a snapshot
alone is enough to find the verdict. A roll that a newer one supersedes is followed into the newer one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from supervisor.messages.events import Event
from supervisor.messages.status import Begun, Ledger, Status, Verdict


class Step(msgspec.Struct, frozen=True):
    """Something that happened in a roll. `seconds` since the step before it; None when that isn't known."""

    app: str
    text: str
    seconds: float | None = None


@dataclass
class Roll:
    """One app's roll as far as it is known."""

    app: str
    target: int
    number: int  # which of the app's rolls it is
    start: int | None = None  # the generation it began from
    verdict: Verdict = "running"
    reason: str = ""
    seconds: float | None = None
    ledger: Ledger | None = None
    output: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    latest: float | None = None  # when the last step was, in the master's time


class RollWatch:
    """The rolls that one `reload` or `rollback` began; `begun` is its answer."""

    def __init__(self, begun: dict[str, Begun]) -> None:
        self.rolls = {app: Roll(app, roll.generation, roll.number) for app, roll in begun.items()}

    @property
    def pending(self) -> list[str]:
        """The apps whose roll has not ended yet."""
        return [app for app, roll in self.rolls.items() if roll.verdict == "running"]

    @property
    def is_committed(self) -> bool:
        """True when every roll ended well."""
        return all(roll.verdict == "committed" for roll in self.rolls.values())

    def see(self, event: Event) -> Step | None:
        """Take in one event; the result is what to show for it."""
        roll = self.rolls.get(event.app or "")
        if roll is None or roll.verdict != "running":
            return None
        step = self._take(roll, event)
        roll.steps += [step] if step is not None else []
        return step

    def _take(self, roll: Roll, event: Event) -> Step | None:
        if event.name == "roll.started":
            return self._started(roll, event)
        if event.name in ("roll.canary", "roll.step") and roll.latest is not None:
            return self._step(roll, event, event.text)
        if event.name in ("roll.committed", "roll.rolled_back"):
            return self._ended(roll, event)
        return None

    def look(self, status: Status) -> None:
        """Take in a snapshot, for what the events did not tell."""
        for roll in self.rolls.values():
            if roll.verdict == "running":
                self._compare(roll, status)

    def _started(self, roll: Roll, event: Event) -> Step | None:
        to, number = _number(event.fields.get("to")), _number(event.fields.get("number"))
        if to is None or number is None or number < roll.number:
            return None
        roll.target, roll.number, roll.latest, roll.start = to, number, event.ts, _number(event.fields.get("from"))
        return Step(roll.app, f"generation {to} is on its way" + (f" (from {roll.start})" if roll.start else ""))

    def _step(self, roll: Roll, event: Event, text: str) -> Step:
        passed = None if roll.latest is None else max(0.0, event.ts - roll.latest)
        roll.latest = event.ts
        return Step(roll.app, text, passed)

    def _ended(self, roll: Roll, event: Event) -> Step | None:
        to, number = _number(event.fields.get("to")), _number(event.fields.get("number"))
        if number is not None and number < roll.number:
            return None  # the end of an older roll, which ours superseded
        newer = _number(event.fields.get("superseded_by"))
        if newer is not None:
            roll.target, roll.number = newer, roll.number + 1
            return self._step(roll, event, f"superseded by generation {newer}, which is followed now")
        roll.target = to or roll.target
        roll.start = _number(event.fields.get("from")) or roll.start
        roll.verdict = "committed" if event.name == "roll.committed" else "rolled_back"
        roll.reason = str(event.fields.get("reason") or "")
        roll.output = _lines(event.fields.get("output"))
        seconds = event.fields.get("seconds")
        roll.seconds = float(seconds) if isinstance(seconds, int | float) else None
        roll.ledger = _ledger(event.fields.get("ledger"))
        return None

    def _compare(self, roll: Roll, status: Status) -> None:
        app = status.apps.get(roll.app)
        last = app.last_roll if app else None
        if last is not None and last.number >= roll.number:
            roll.target, roll.number, roll.start = last.to, last.number, last.from_
            roll.verdict, roll.reason, roll.seconds, roll.ledger = last.verdict, last.reason, last.seconds, last.ledger
        elif app is None:
            roll.verdict, roll.reason = "rolled_back", "the app is no longer in the settings"
        elif app.state == "stopped":
            roll.verdict, roll.reason = "rolled_back", "the app was stopped"


def ending(roll: Roll) -> str:
    """The last line: what became of it, how long it took, why, and what became of the requests."""
    account = f"; {ledger_line(roll.ledger)}" if roll.ledger is not None else ""
    if roll.verdict == "committed":
        took = "" if roll.seconds is None else f" in {roll.seconds:.1f} s"
        return f"{roll.app}: generation {roll.target} committed{took}{account}"
    after = "" if roll.seconds is None else f" after {roll.seconds:.1f} s"
    stays = f"generation {roll.start} goes on serving" if roll.start else "the old generation goes on serving"
    why = roll.reason or "no reason given"
    return f"{roll.app}: generation {roll.target} rolled back{after}: {why}{account}; {stays}"


def ledger_line(ledger: Ledger) -> str:
    """Requests, then connections; what is still under way shows only when there is something."""
    under_way = f", {ledger.under_way} under way" if ledger.under_way else ""
    requests = f"{ledger.completed} completed{under_way}, {ledger.cut} cut, {ledger.reset} reset"
    connections = f"{ledger.handed_over} handed over, {ledger.drained} drained, {ledger.connections_cut} cut"
    return f"requests: {ledger.accepted} accepted, {requests}; connections: {connections}"


def as_object(roll: Roll) -> dict[str, Any]:
    """One roll for `--json`."""
    return {
        "from": roll.start,
        "to": roll.target,
        "verdict": roll.verdict,
        "reason": roll.reason,
        "seconds": roll.seconds,
        "number": roll.number,
        "ledger": None if roll.ledger is None else msgspec.to_builtins(roll.ledger),
        "steps": [{"text": step.text, "seconds": step.seconds} for step in roll.steps],
        "output": roll.output,
    }


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _ledger(value: object) -> Ledger | None:
    try:
        return msgspec.convert(value, Ledger)
    except msgspec.ValidationError:
        return None


def _lines(value: object) -> list[str]:
    if isinstance(value, str):
        return value.splitlines()
    return [str(line) for line in value] if isinstance(value, list | tuple) else []
