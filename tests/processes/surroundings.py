"""Hostile surroundings: a fault is brought about on a real cluster under load, ends, and the cluster has to be whole.

Invariant: a fault undoes what it did to the machine (limits, control groups, stopped processes) however it goes, and
the cluster is swept away with everything of it.

What can't be brought about here (no control groups, say) is skipped with the reason, not passed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes.cluster import Cluster, until
from tests.processes.deeds import HERE, order, ready, spawners
from tests.processes.load import Load, Report

WORKERS = 3
WARM_UP_S = 0.5
AFTER_S = 1.0
WHOLE_S = 40.0


class SkippedError(Exception):
    """The fault can't be brought about on this machine; the text says why."""


class Stage:
    """A running cluster under a running load, in a folder of its own."""

    def __init__(self, cluster: Cluster, load: Load, seed: int) -> None:
        self.cluster = cluster
        self.load = load
        self.seed = seed
        self.chance = random.Random(seed)
        self.remarks: list[str] = []

    def some_worker(self) -> int:
        return int(self.chance.choice(self.cluster.workers())["pid"])

    def spawner(self) -> int:
        (pid,) = until("a spawner", lambda: spawners(self.cluster))
        return pid

    def ask(self, path: str) -> None:
        """A request for whose answer nobody waits."""
        threading.Thread(target=order, args=(self.cluster, path), daemon=True).start()

    def pids(self) -> list[int]:
        return sorted(worker["pid"] for worker in self.cluster.workers())

    def wait_until_told(self, text: str, deadline: float = WHOLE_S) -> None:
        until(f"{text!r} in the log", lambda: text in self.cluster.log, deadline)


Deed = Callable[[Stage], None]
Setting = Callable[[Path], contextlib.AbstractContextManager[dict[str, str]]]


@contextlib.contextmanager
def nothing_special(_folder: Path) -> Iterator[dict[str, str]]:
    yield {}


@dataclass(frozen=True)
class Fault:
    """What is brought about and undone, and what has to hold.

    `before` prepares the folder and tells what the cluster finds in its environment. Of the requests of the load at
    most `may_lose` fail. `told` has to be in the log once at least and `at_most` times; unless it `blames`, no worker
    may have been found stalled or ended.
    """

    name: str
    bring_about: Deed
    told: str = ""
    at_most: int = 1_000_000
    may_lose: int = 0
    blames: bool = True
    options: tuple[str, ...] = ()
    control: str = "control.sock"  # where in the folder
    before: Setting = nothing_special


@dataclass
class Outcome:
    """What came of a fault. `whole_after_s` is from its end to the moment when everything was as before."""

    name: str
    clients: Report = field(default_factory=Report)
    told: str = ""
    whole_after_s: float = 0.0
    remarks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    skipped: str = ""

    @property
    def verdict(self) -> str:
        """In a word."""
        return f"skipped: {self.skipped}" if self.skipped else "FAILED" if self.failures else "held"


LONGEST_WORDS = 110  # characters of a line of the log


def table(outcomes: Sequence[Outcome]) -> str:
    """What came of all of them, in Markdown."""
    lines = ["| fault | clients lost | logged | whole again after | |", "| --- | ---: | --- | ---: | --- |"]
    for it in outcomes:
        told = it.told.replace("|", "/")
        told = told if len(told) <= LONGEST_WORDS else f"{told[:LONGEST_WORDS].rstrip()} .."
        figures = f"{it.clients.lost} of {it.clients.requests:,} | {told or '-'} | {it.whole_after_s:.1f} s"
        remarks = "".join(f"; {remark}" for remark in it.remarks)
        lines.append(f"| {it.name} | {'- | - | -' if it.skipped else figures} | {it.verdict}{remarks} |")
    return "\n".join(lines)


def undergo(fault: Fault, folder: Path, seed: int) -> Outcome:
    """One fault in an empty folder. Raises `LoadError` or `OSError` when it can't be tried."""
    outcome = Outcome(fault.name)
    for name in ("deeds_app.py", "echo_app.py"):
        shutil.copy(HERE / name, folder)
    options = ["-w", str(WORKERS), "--keep-previous", "off", *fault.options]
    try:
        with contextlib.ExitStack() as opened:
            env = opened.enter_context(fault.before(folder))
            cluster = opened.enter_context(Cluster(folder, "deeds_app:app", *options, env=env, control=fault.control))
            load = opened.enter_context(Load(cluster.bind, connections=8, fresh=0.5, pause_s=0.01, timeout_s=60.0))
            stage = Stage(cluster, load, seed)
            until("answers", lambda: load.snapshot().ok > 100)
            load.window()
            _bring_about(fault, stage, outcome)
            outcome.clients = load.stop()
            _judge(fault, stage, outcome)
            outcome.failures += _ending(cluster)
    except SkippedError as reason:
        outcome.skipped = str(reason)
    return outcome


def _bring_about(fault: Fault, stage: Stage, outcome: Outcome) -> None:
    try:
        fault.bring_about(stage)
        ended = time.monotonic()
        until("the cluster whole", lambda: is_whole(stage.cluster), WHOLE_S)
        outcome.whole_after_s = time.monotonic() - ended
        before = stage.load.snapshot().ok
        until("answers again", lambda: stage.load.snapshot().ok > before + 50)
    except AssertionError as failure:
        outcome.failures.append(f"{failure}"[:1000])
    outcome.remarks = stage.remarks


def is_whole(cluster: Cluster) -> bool:
    app = cluster.app()
    return bool(app) and app["state"] == "running" and ready(cluster, WORKERS) and len(spawners(cluster)) == 1


def _judge(fault: Fault, stage: Stage, outcome: Outcome) -> None:
    log = stage.cluster.log
    lines = [line for line in log.splitlines() if fault.told and fault.told in line]
    outcome.told = lines[0].partition(" ")[2].strip() if lines else ""
    if fault.told and not lines:
        outcome.failures.append(f"{fault.told!r} is not in the log")
    if len(lines) > fault.at_most:
        outcome.failures.append(f"{fault.told!r} was told {len(lines)} times")
    if outcome.clients.lost > fault.may_lose:
        lost = f"{outcome.clients.lost} requests were lost, {fault.may_lose} may be"
        outcome.failures.append(f"{lost}: {outcome.clients.losses[:3]}")
    if not fault.blames:
        outcome.failures += [line for line in log.splitlines() if "worker.stalled" in line or "worker.exited" in line]
    if "Traceback" in log:
        outcome.failures.append(f"a traceback: {log[log.index('Traceback') :][:1000]}")


def _ending(cluster: Cluster) -> list[str]:
    """A graceful stop: what is wrong with it."""
    try:
        code, left = cluster.stop(), cluster.leftovers()
    except AssertionError as failure:
        return [f"{failure}"[:1000]]
    return [f"it ended with {code}, and left {left}"] if code or left else []


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stopped meanwhile (SIGSTOP), and going on then, whoever is still there."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
