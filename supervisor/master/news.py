"""What happens to one app, in words: each thing one event, saying what, to whom, why, and what comes next.

Invariant: this room of text decides nothing; it is told, and tells.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from supervisor.fleet import records as seats
from supervisor.kernel.process import UNKNOWN
from supervisor.master.crashes import Crash
from supervisor.master.releases import Release
from supervisor.master.worker import Worker
from supervisor.messages.events import Level
from supervisor.messages.status import AppState, RollStatus
from supervisor.messages.wire import Imported
from supervisor.observe.journal import Journal
from supervisor.reload import records as rolls
from supervisor.watch.leak import Climb
from supervisor.watch.limits import megabytes
from supervisor.watch.poison import DEATHS, WITHIN
from supervisor.watch.scale import Pulse


class Loss(msgspec.Struct, frozen=True):
    """What an ended worker takes along: `seconds` it lived, `requests` lost with it, and more if it was a `crash`."""

    reason: str
    seconds: float
    requests: int
    crash: Crash | None

    @property
    def fields(self) -> dict[str, Any]:
        """For an event."""
        if self.crash is None:
            return {"lost": self.requests}
        return {"lost": self.requests, "request": self.crash.request, "report": self.crash.report}

    def __str__(self) -> str:
        """For a line, behind how it ended."""
        serving = self.crash.serving if self.crash is not None else ""
        lost = f", {self.requests} request{'s' * (self.requests > 1)} lost with it" if self.requests else ""
        return serving + lost


class Unborn(NamedTuple):
    """Stands for a worker that never was."""

    slot: int
    generation: int
    pid: int = 0


class News:
    """One app's voice in the journal."""

    def __init__(self, journal: Journal, app: str) -> None:
        self._journal = journal
        self._app = app
        self._ends: dict[int, tuple[Worker | Unborn, Loss]] = {}  # by worker
        self._is_ill = False  # told to be failed or degraded, and not to have recovered since
        self.failure_output: list[str] = []  # what the release being rolled to last wrote to stderr

    def preloaded(self, release: Release, imported: Imported) -> None:
        generation, preload = release.generation, release.settings.preload
        threads = ", ".join(imported.threads)
        if release.settings.chdir is not None or release.place.python is not None:
            python = f", python {release.place.python}" if release.place.python else ""
            self._tell("log", f"generation {generation} is in {release.place.home}{python}", generation=generation)
        if imported.preloaded:
            text = f"imported in {imported.seconds:.2f} s ({imported.interface}), workers are forked from it"
            self._tell("log", text, generation=generation)
            if threads:
                text = f"preload = on, but the import left threads running, which a fork does not copy: {threads}"
                self._tell("log", text, level="warning", generation=generation)
        elif preload == "auto":
            text = (
                f"not preloaded: the import left threads running ({threads}), which a fork does not copy; each worker "
                "imports by itself. Start threads in the lifespan startup instead, or set preload = off"
            )
            self._tell("log", text, level="warning", generation=generation)

    def started(self, worker: Worker) -> None:
        self._tell_worker("worker.started", "started", worker)

    def ready(self, worker: Worker, seconds: float) -> None:
        self._tell_worker("worker.ready", f"ready after {seconds:.2f} s", worker, seconds=round(seconds, 3))

    def saturated(self, worker: Worker, why: str) -> None:
        text = f"takes no new connections: {why}; the other workers do"
        self._tell_worker("worker.saturated", text, worker, level="warning", why=why)

    def recovered(self, worker: Worker, seconds: float, why: str) -> None:
        text = f"takes connections again after {seconds:.1f} s: {why}"
        self._tell_worker("worker.recovered", text, worker, seconds=round(seconds, 3), why=why)

    def turned_away(self, worker: Worker, requests: int, seconds: float) -> None:
        text = f"{requests} request{'s' * (requests > 1)} turned away with 503 in {seconds:.1f} s: no room for them"
        self._tell_worker("log", text, worker, level="warning", shed=requests, seconds=round(seconds, 3))

    def recycling(self, worker: Worker, why: str) -> None:
        self._tell_worker("worker.recycled", f"to be replaced, new worker first: {why}", worker, why=why)

    def leaking(self, worker: Worker, climb: Climb, limit: str) -> None:
        left = climb.seconds_to_limit
        when = f"{left / 3600:.1f} h" if left >= 5400 else f"{left / 60:.0f} min"
        now, top, hourly = megabytes(climb.rss_bytes), megabytes(climb.limit), f"{climb.mb_per_hour:.0f}"
        text = f"leaks memory: {now} MB, and {hourly} MB more an hour, which comes to {limit}, {top} MB, in {when}"
        self._tell_worker(
            "worker.leaking",
            text,
            worker,
            level="warning",
            mb_per_hour=round(climb.mb_per_hour, 1),
            rss_bytes=climb.rss_bytes,
            limit_bytes=climb.limit,
            seconds_to_limit=round(left),
        )

    def ended(self, worker: Worker, loss: Loss, *, is_leaving: bool) -> None:
        """One that was leaving is told here; any other with what follows from its death, in `died`."""
        if not is_leaving:
            self._ends[worker.number] = worker, loss
            return
        if not worker.pid:
            return  # it never came to be, and nobody waits for it
        text = f"left: {loss.reason}" if loss.reason else "left, drained"
        level: Level = "warning" if loss.reason not in ("", UNKNOWN) or loss.requests else "info"
        self._tell_worker("worker.exited", f"{text}{loss}", worker, level=level, reason=loss.reason, **loss.fields)
        self._call_out(loss)

    def unborn(self, worker: int, slot: int, generation: int, reason: str) -> None:
        """One that could not even be begun: what follows from that is told in `died`."""
        self._ends[worker] = Unborn(slot, generation), Loss(reason, 0.0, 0, None)

    def died(self, death: seats.Died) -> None:
        worker, loss = self._ends.pop(death.worker)
        when = f"after {loss.seconds:.1f} s" if death.was_ready else f"before it was ready, after {loss.seconds:.1f} s"
        then = f"next attempt in {death.retry_in:.1f} s" if death.retry_in else "replaced at once"
        if death.retry_in is None:
            then = "its release is given up"
        often = f", death {death.failures} in a row" if death.failures > 1 else ""
        self._tell_worker(
            "worker.exited",
            f"{death.reason} {when}{loss}{often}; {then}",
            worker,
            level="error",
            reason=death.reason,
            retry_in=None if death.retry_in is None else round(death.retry_in, 3),
            **loss.fields,
        )
        self._call_out(loss)

    def _call_out(self, loss: Loss) -> None:
        for kind in loss.crash.poison if loss.crash is not None else ():
            text = f"{kind} was under way in {DEATHS} workers that have died within {WITHIN:g} s: it may be why"
            self._tell("app.poisoned", text, level="warning", request=kind, deaths=DEATHS)

    def dropped(self, worker: Worker, output: int, records: int) -> None:
        """Of what it wrote since this was last asked: bytes of output, lines of the access log."""
        if output:
            text = f"{output} bytes of its output dropped: it printed faster than they could be passed on"
            self._tell_worker("log", text, worker, level="warning", output_dropped=output)
        if records:
            text = f"{records} line{'s' * (records > 1)} of its access log dropped: the reader or the disk is too slow"
            self._tell_worker("log", text, worker, level="warning", records_dropped=records)

    def spawner_lost(self, release: Release, reason: str, retry_in: float, *, are_serving: bool) -> None:
        then = f"a new spawner is started {f'in {retry_in:.1f} s' if retry_in else 'at once'}"
        text = f"{reason}; {then}{', the workers serve on' if are_serving else ''}"
        self._tell("log", text, level="error", generation=release.generation, retry_in=round(retry_in, 3))

    def unlisted(self) -> None:
        self._tell("log", "is not in the settings any more: stopped", level="warning")

    def not_started(self, reason: str) -> None:
        self._tell("log", f"can't be started again: {reason}", level="error")

    def bound(self, opened: list[str]) -> None:
        if opened:
            self._tell("log", f"listening on {', '.join(opened)}, too")

    def unbound(self, bound: str) -> None:
        self._tell("log", f"no longer listens on {bound}: the release that serves does not name it")

    def spared(self, worker: Worker, why: str, limit: int) -> None:
        text = f"not killed although it should be ({why}): max_restarts, {limit} in a minute, is used up"
        self._tell_worker("log", text, worker, level="warning", why=why)

    def scaled(self, before: int, after: int, why: str, pulses: tuple[Pulse, ...]) -> None:
        fields: dict[str, Any] = {"from": before, "to": after, "why": why, "workers": [_shown(each) for each in pulses]}
        self._tell("app.scaled", f"{after} worker{'s' * (after != 1)} instead of {before}: {why}", **fields)

    def state_changed(self, after: AppState, why: str = "") -> None:
        """`why` is the watch's restraint, if that is what makes it degraded."""
        was_ill, self._is_ill = self._is_ill, after in ("failed", "degraded") or (self._is_ill and after == "rolling")
        if after == "failed":
            text = "all its workers keep dying; the socket stays open and holdfast keeps trying"
            self._tell("app.failed", text, level="error")
        elif after == "degraded":
            text = why or "some workers keep dying, the others serve"
            self._tell("app.degraded", text, level="warning", why=text)
        elif after == "running" and was_ill:
            self._tell("app.recovered", "all workers serve, and none has to be killed")
        elif after == "stopped":
            self._tell("log", "stopped")

    def rolled(self, command: rolls.Command, roll: RollStatus | None) -> None:
        """`roll` is the book's entry, after the command was written into it."""
        if isinstance(command, rolls.Started):
            self.failure_output = []
            self._tell_roll(
                "roll.started", f"rolling from generation {command.base} to {command.target}", command, roll
            )
        elif isinstance(command, rolls.Bake):
            self._watched(command)
        elif isinstance(command, rolls.Stepped):
            text = f"worker {command.slot} replaced ({command.done} of {command.total})"
            to = roll.to if roll is not None else None
            self._tell("roll.step", text, generation=to, slot=command.slot, done=command.done, total=command.total)
        elif isinstance(command, rolls.Committed):
            text = f"generation {command.target} serves, after {command.seconds:.1f} s"
            self._tell_roll("roll.committed", text, command, roll)
        elif isinstance(command, rolls.RolledBack):
            self._rolled_back(command, roll)
        elif isinstance(command, rolls.Superseded):
            self._rolled_back(command, roll, superseded_by=command.by)

    def _watched(self, bake: rolls.Bake) -> None:
        seconds = round(bake.seconds, 3)
        if bake.slot is not None:
            text = f"a first worker of generation {bake.generation} serves, and is watched for {bake.seconds:g} s"
            self._tell("roll.canary", text, generation=bake.generation, slot=bake.slot, seconds=seconds)
        elif bake.seconds:
            text = f"all workers are of generation {bake.generation}, which is watched for {bake.seconds:g} s more"
            self._tell("log", text, generation=bake.generation, seconds=seconds)

    def _rolled_back(
        self, command: rolls.RolledBack | rolls.Superseded, roll: RollStatus | None, **fields: Any
    ) -> None:
        reason = roll.reason if roll is not None else ""
        text = f"generation {command.target} is given up, {command.base} serves on: {reason}"
        self._tell_roll("roll.rolled_back", text, command, roll, reason=reason, output=self.failure_output, **fields)

    def _tell_roll(
        self,
        name: str,
        text: str,
        command: rolls.Started | rolls.Committed | rolls.RolledBack | rolls.Superseded,
        roll: RollStatus | None,
        **fields: Any,
    ) -> None:
        level: Level = "error" if name == "roll.rolled_back" and "superseded_by" not in fields else "info"
        ends: dict[str, Any] = {"from": command.base, "to": command.target}
        if roll is not None:
            ends["number"] = roll.number
            if roll.verdict != "running":
                ends |= {"seconds": roll.seconds, "ledger": msgspec.to_builtins(roll.ledger)}
        self._tell(name, text, level=level, generation=command.target, **ends, **fields)

    def _tell_worker(self, name: str, text: str, worker: Worker | Unborn, level: Level = "info", **fields: Any) -> None:
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

    def _tell(self, name: str, text: str, level: Level = "info", generation: int | None = None, **fields: Any) -> None:
        self._journal.event(name, text, level=level, app=self._app, generation=generation, **fields)


def _shown(pulse: Pulse) -> dict[str, Any]:
    """With the keys of `status`."""
    lag, cpu = round(1e3 * pulse.lag, 1), round(100 * pulse.cpu, 1)
    return {"slot": pulse.slot, "inflight": pulse.inflight, "lag_ms": lag, "cpu_percent": cpu}
