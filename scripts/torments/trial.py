"""One torment: a cluster of its own under load, something bad injected, and what the cluster and its clients say of it.

Invariant: when a torment ends nothing of its cluster is left, and the next one finds the machine as if it had not been.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.processes.cluster import Cluster
from tests.processes.load import Load, Report

APP = Path(__file__).with_name("torment_app.py")
IMPATIENT = Path(__file__).parents[1] / "benchmarks" / "impatient_load.py"
WARM_UP_S = 1.0
AFTER_S = 1.0  # of load after the last thing that was to happen
RECOVER_S = 20.0
POLL_S = 0.02
ASK_S = 60.0

Event = dict[str, Any]


@dataclass(frozen=True)
class Sign:
    """An event that has to come: its name, and what must be in its message."""

    name: str
    text: str = ""

    def fits(self, event: Event) -> bool:
        return bool(event["event"] == self.name and self.text in event["message"])


Deed = Callable[["Trial"], None]


@dataclass(frozen=True)
class Torment:
    """What is injected, and what has to follow, in this order: signs, each within so many seconds, and further deeds.

    `may_lose`: how many requests of the load may fail at most. Options are those of holdfast run; `fresh` is the share
    of clients that open a connection for each request.
    """

    name: str
    inflict: Deed
    then: tuple[Sign | Deed, ...]
    options: tuple[str, ...] = ()
    app: str = "app"
    workers: str = "2"
    within_s: float = 10.0
    may_lose: int = 0
    connections: int = 4
    fresh: float = 0.5
    pause_s: float = 0.0  # that each client of the load rests between two requests
    ends: str = "running"  # the app's state at last
    is_slow: bool = False  # it takes minutes, and so little that others can be tried meanwhile


@dataclass
class Outcome:
    """What came of one. `after_s` is from the injection to the first sign; `failures` is why it is not as it should."""

    name: str
    noticed: list[str] = field(default_factory=list)
    after_s: float | None = None
    clients: Report = field(default_factory=Report)
    remarks: list[str] = field(default_factory=list)  # what the torment itself has measured
    failures: list[str] = field(default_factory=list)


class Trial:
    """A running cluster under a running load, for a torment to inflict itself upon."""

    def __init__(self, cluster: Cluster, load: Load) -> None:
        self.cluster = cluster
        self.load = load
        self.remarks: list[str] = []
        self.failures: list[str] = []
        self._began = 0.0
        self._crowd: Load | None = None
        self._is_over = threading.Event()

    def ask(self, path: str, times: int = 1) -> None:
        """So many requests at once, each on a connection of its own; nobody waits for the answers."""
        for _ in range(times):
            threading.Thread(target=self._ask, args=(path,), daemon=True).start()

    def crowd(self, path: str, connections: int, timeout_s: float = 20.0) -> None:
        """More clients, beside those of the load, until `disperse`."""
        self._crowd = Load(
            self.cluster.bind, connections=connections, path=path, echo=False, posts=0.0, timeout_s=timeout_s
        )
        self._crowd.start()

    def impatient(self, path: str, clients: int, seconds: int) -> dict[str, float]:
        """What so many clients see in so many seconds who give up after one, and ask again at once: answers, refusals
        and lateness a second (`ok_per_s`, `shed_per_s`, `late_per_s`), and `p99_s`."""
        port = self.cluster.bind.rpartition(":")[2]
        command = [sys.executable, str(IMPATIENT), port, path, str(clients), str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True)
        seen: dict[str, float] = json.loads(done.stdout)
        return seen

    def disperse(self) -> Report:
        """The crowd goes; what it has seen."""
        assert self._crowd is not None
        return self._crowd.stop()

    def drip(self, path: str, every_s: float) -> None:
        """A request each `every_s` seconds until the torment is over."""

        def go_on() -> None:
            while not self._is_over.wait(every_s):
                self._ask(path)

        threading.Thread(target=go_on, daemon=True).start()

    def end(self) -> None:
        """Nothing is asked any more."""
        self._is_over.set()

    def _ask(self, path: str) -> None:
        host, _, port = self.cluster.bind.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=ASK_S)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", path)
            connection.getresponse().read()

    def events(self) -> list[Event]:
        """Since the torment began."""
        lines = (line for line in self.cluster.log.splitlines() if line.startswith("{") and line.endswith("}"))
        events = (json.loads(line) for line in lines)
        return [event for event in events if event["ts"] >= self._began and event["event"] != "app.output"]

    def begin(self) -> None:
        """What clients see is counted from here on, and so is the time until something is noticed."""
        self.load.window()
        self._began = time.time()

    def wait_for(self, sign: Sign, seen: int, within_s: float) -> tuple[int, Event] | None:
        """The first event that fits, after `seen` others, with its number; None when it does not come."""
        deadline = time.monotonic() + within_s
        while True:
            for number, event in enumerate(self.events()[seen:], seen):
                if sign.fits(event):
                    return number, event
            if time.monotonic() > deadline:
                return None
            time.sleep(POLL_S)

    def since_began(self, event: Event) -> float:
        return float(event["ts"]) - self._began

    def wait_until_well(self, state: str) -> bool:
        """The app in this state, every slot served, nobody blocked or saturated, and nobody on the way out."""
        deadline = time.monotonic() + RECOVER_S
        while time.monotonic() < deadline:
            app = self.cluster.app()
            if app and app["state"] == state and all(each["state"] == "ready" for each in app["workers"]):
                return True
            time.sleep(POLL_S)
        return False


def suffer(torment: Torment) -> Outcome:
    """Have one torment inflicted upon a fresh cluster. Raises `LoadError`, `OSError` or `AssertionError` when it can't
    be tried."""
    outcome = Outcome(torment.name)
    with tempfile.TemporaryDirectory(prefix="holdfast-torture-") as home:
        shutil.copy(APP, home)
        options = ["-w", torment.workers, "--log-format", "json", *torment.options]
        cluster = Cluster(Path(home), f"torment_app:{torment.app}", *options)
        load = Load(
            "", torment.connections, torment.fresh, posts=0.3, pause_s=torment.pause_s, all_rest=True, timeout_s=20.0
        )
        with cluster:
            load.address = cluster.bind
            with load:
                time.sleep(WARM_UP_S)
                trial = Trial(cluster, load)
                trial.begin()
                torment.inflict(trial)
                _watch(torment, trial, outcome)
                time.sleep(AFTER_S)
                trial.end()
                outcome.clients = load.window()
    if outcome.clients.lost > torment.may_lose:
        outcome.failures.append(f"{outcome.clients.lost} requests lost, {torment.may_lose} allowed")
    return outcome


def _watch(torment: Torment, trial: Trial, outcome: Outcome) -> None:
    """Wait for the signs, and for the cluster to be well again."""
    seen = 0
    for step in torment.then:
        if not isinstance(step, Sign):
            step(trial)
            continue
        found = trial.wait_for(step, seen, torment.within_s)
        if found is None:
            outcome.failures.append(f"no {step.name} with {step.text!r} within {torment.within_s:g} s")
            break
        seen, event = found[0] + 1, found[1]
        outcome.noticed.append(f"{event['event']}: {event['message']}")
        if outcome.after_s is None:
            outcome.after_s = trial.since_began(event)
    if not trial.wait_until_well(torment.ends):
        outcome.failures.append(f"not well again after {RECOVER_S:.0f} s: {trial.cluster.app().get('state')}")
    outcome.remarks, outcome.failures = trial.remarks, outcome.failures + trial.failures
