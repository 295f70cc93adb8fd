"""How long answers take at 70 % of what a server can do, the same absolute load for all who can bear it.

wrk is a closed loop: each connection asks when it has its answer, so a server that pauses is asked less, and what those
wait who would have come meanwhile is in no figure. `paced.go` asks by the clock. Each round first takes every server's
peak anew, as the machine's speed changes, and then has all of them asked at 70 % of each peak, one after the other.

The client never sleeps, so whatever else the machine does falls to the server's core, and to its p99: a process that
takes 10 ms in each second holds up one request in a hundred.

Invariant: a run in which the client itself was late is counted as such, and in no other figure.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.environment import UnavailableError
from benchmarks.measure import Setup, take_round
from benchmarks.report import Row, aligned
from benchmarks.scenarios import SCENARIOS
from benchmarks.server import Server

PACED = Path(__file__).with_name("paced.go")
SCENARIO = SCENARIOS[0]
SHARE = 0.7  # of the peak
BEARABLE = 0.95  # of its own peak: a server is not asked for more
REACHED = 0.99  # of the rate that was wanted
LATE = 0.2  # of the p99 at most may be the client's own lateness
BUSY = 0.95  # of the client's core


@dataclass(frozen=True)
class Paced:
    """One run, as `paced.go` prints it: times in seconds, from when a request was due. `server_cpu` is of a core."""

    rate_wanted: float
    rate_reached: float
    p50_s: float
    p90_s: float
    p99_s: float
    p999_s: float
    max_s: float
    non_2xx: int
    broken: int
    unanswered: int
    late_p99_s: float
    late_max_s: float
    busy: float
    server_cpu: float

    @property
    def kept_up(self) -> bool:
        """The client did, that is: these are the server's times."""
        return self.busy < BUSY and self.late_p99_s < LATE * self.p99_s

    @property
    def errors(self) -> int:
        return self.non_2xx + self.broken + self.unanswered


@dataclass
class Latency:
    """Each round's peaks by server, and its runs by whose peak the load was 70 % of, and server."""

    peaks: list[dict[str, float]] = field(default_factory=list)
    runs: list[dict[tuple[str, str], Paced]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def of(self, load: str, server: str) -> list[Paced]:
        """The runs that count."""
        found = (each.get((load, server)) for each in self.runs)
        return [run for run in found if run is not None and run.kept_up]

    def late(self, load: str, server: str) -> int:
        """The runs that don't."""
        return sum(not each[load, server].kept_up for each in self.runs if (load, server) in each)

    def times(self, load: str, ours: str, other: str) -> float | None:
        """Our p99 in units of the other's: the median of the ratios within each round."""
        pairs = ((each.get((load, ours)), each.get((load, other))) for each in self.runs)
        ratios = [one.p99_s / its.p99_s for one, its in pairs if one and its and one.kept_up and its.kept_up]
        return statistics.median(ratios) if ratios else None


def take_latency(latency: Latency, servers: Sequence[tuple[str, Server]], client: Path, setup: Setup) -> None:
    """One round more, in the order of `servers`; who fails has its reason in `skipped`, and no further part."""
    peaks: dict[str, float] = {}
    runs: dict[tuple[str, str], Paced] = {}
    for name, server in servers:
        if name not in latency.skipped:
            try:
                peaks[name] = take_round(server, SCENARIO, replace(setup, seconds=1)).requests_per_s
            except UnavailableError as error:
                latency.skipped[name] = str(error)
    for load, peak in peaks.items():
        for name, server in servers:
            if name in latency.skipped or SHARE * peak > BEARABLE * peaks[name]:
                continue
            try:
                runs[load, name] = pace(server, client, SHARE * peak, setup)
            except UnavailableError as error:
                latency.skipped[name] = str(error)
    latency.peaks.append(peaks)
    latency.runs.append(runs)


def pace(server: Server, client: Path, rate: float, setup: Setup) -> Paced:
    """Raises `UnavailableError` when the client fails."""
    arguments = [str(server.port), SCENARIO.path, str(setup.connections), f"{rate:.0f}", str(setup.seconds)]
    command = ["taskset", "-c", str(setup.client_core), "env", "GOMAXPROCS=1", str(client), *arguments]
    began, used = time.monotonic(), server.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, timeout=setup.seconds + 60, check=False)
    took, used = time.monotonic() - began, server.cpu_seconds() - used
    if done.returncode:
        raise UnavailableError(f"load client: {(done.stderr.strip() or 'no result').splitlines()[-1]}")
    return Paced(**json.loads(done.stdout), server_cpu=used / took)


def latency_table(latency: Latency) -> str:
    """A block for each load, the highest first; within it the lowest p99 first."""
    lines = [f"latency: {SCENARIO.about}; from when a request was due, at {SHARE:.0%} of each server's peak"]
    peaks = {name: _median([each[name] for each in latency.peaks if name in each]) for name in latency.peaks[0]}
    ours = next((name for name in peaks if name.startswith("holdfast")), "")
    for load in sorted(peaks, key=lambda name: -peaks[name]):
        entrants = [name for name in peaks if name not in latency.skipped and latency.of(load, name)]
        rows: list[Row] = [("", "p50", "p90", "p99", "spread", "p99.9", "max", "its cpu", "its p99 is")]
        rows += [
            _row(latency, load, name, ours)
            for name in sorted(entrants, key=lambda name: _median([run.p99_s for run in latency.of(load, name)]))
        ]
        lines += [f"  {SHARE * peaks[load]:,.0f} requests/s, {SHARE:.0%} of the peak of {load}", *aligned(rows)]
        lines += [note for name in peaks for note in _doubts(latency, load, name)]
    return "\n".join([*lines, *(f"  {name}: skipped, {reason}" for name, reason in latency.skipped.items())])


def _row(latency: Latency, load: str, name: str, ours: str) -> Row:
    runs = latency.of(load, name)
    p99s = [run.p99_s for run in runs]
    times = latency.times(load, name, ours) if name != ours else None
    return (
        name,
        *(_milliseconds(_median([getattr(run, field) for run in runs])) for field in ("p50_s", "p90_s", "p99_s")),
        f"{1e3 * min(p99s):.2f}-{1e3 * max(p99s):.2f}",
        *(_milliseconds(_median([getattr(run, field) for run in runs])) for field in ("p999_s", "max_s")),
        f"{100 * _median([run.server_cpu for run in runs]):.0f} %",
        f"{times:.2f} x holdfast's" if times else "",
    )


def _doubts(latency: Latency, load: str, name: str) -> list[str]:
    runs = latency.of(load, name)
    doubts = []
    if late := latency.late(load, name):
        doubts.append(f"{late} runs are left out: the client could not keep up")
    if missed := sum(run.rate_reached < REACHED * run.rate_wanted for run in runs):
        doubts.append(f"did not reach the rate in {missed} of {len(runs)} runs")
    if errors := sum(run.errors for run in runs):
        doubts.append(f"{errors} requests without their answer")
    return [f"    {name}: {doubt}" for doubt in doubts]


def latency_object(latency: Latency) -> dict[str, Any]:
    runs = [
        {"round": number, "load": load, "server": name, "kept_up": run.kept_up} | asdict(run)
        for number, each in enumerate(latency.runs, 1)
        for (load, name), run in each.items()
    ]
    return {"scenario": "latency", "share": SHARE, "peaks": latency.peaks, "runs": runs, "skipped": latency.skipped}


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"
