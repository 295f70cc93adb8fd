"""Taking the figures: requests a second with wrk on a core of its own, and the memory of an idle server."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.environment import UnavailableError
from benchmarks.scenarios import Scenario
from benchmarks.server import Server

WRK_LUA = Path(__file__).with_name("wrk.lua")
WEBSOCKET_LOAD = Path(__file__).with_name("websocket_load.py")
WARM_UP_S = 2
STEADY_S = 2.0  # memory is read when it has not changed by more than 1 % for so long
STEADY_WITHIN_S = 30.0
USING = 128  # connections of a burst


@dataclass(frozen=True)
class Setup:
    """How hard and how long, and which core is whose."""

    rounds: int
    seconds: int
    connections: int
    client_core: int
    server_core: int


@dataclass(frozen=True)
class Round:
    """What one run of wrk saw. Shares of a core: the server's own use of its core, and all use of either core."""

    requests_per_s: float
    requests_per_cpu_s: float  # of the server's own time: still tells something when it did not get all of its core
    p50_s: float
    p99_s: float
    max_s: float
    errors: dict[str, int]
    server_cpu: float
    server_core_busy: float
    client_core_busy: float


@dataclass
class Figures:
    """All rounds of one server in one scenario; or why there are none."""

    server: str
    reference: bool
    rounds: list[Round] = field(default_factory=list)
    skipped: str = ""

    def median(self, name: str) -> float:
        return statistics.median(float(getattr(each, name)) for each in self.rounds)

    def spread(self) -> float:
        """Half the distance of the extremes, as a share of the median."""
        rates = [each.requests_per_s for each in self.rounds]
        return (max(rates) - min(rates)) / 2 / statistics.median(rates)

    def times(self, other: Figures, name: str = "requests_per_s") -> float:
        """How many times the other's: the median of the rounds' ratios."""
        return statistics.median(self.ratios(other, name))

    def ratios(self, other: Figures, name: str) -> list[float]:
        """How many times the other's, in each round."""
        pairs = zip(self.rounds, other.rounds, strict=False)
        return [float(getattr(mine, name)) / float(getattr(its, name)) for mine, its in pairs]

    def errors(self) -> dict[str, int]:
        totals: dict[str, int] = {}
        for each in self.rounds:
            for kind, count in each.errors.items():
                totals[kind] = totals.get(kind, 0) + count
        return {kind: count for kind, count in totals.items() if count}


def need_tools() -> None:
    """Raises `UnavailableError` when there is nothing to measure with."""
    missing = [tool for tool in ("wrk", "taskset") if shutil.which(tool) is None]
    if missing:
        raise UnavailableError(f"{' and '.join(missing)} not found: apt install wrk util-linux")


def warm_up(server: Server, scenario: Scenario, setup: Setup) -> None:
    """Raises `UnavailableError` when the client fails."""
    _load(server, scenario, setup, WARM_UP_S)


def take_round(server: Server, scenario: Scenario, setup: Setup) -> Round:
    """Raises `UnavailableError` when the client fails."""
    before = _core_times(setup.server_core), _core_times(setup.client_core)
    used = server.cpu_seconds()
    seen = _load(server, scenario, setup, setup.seconds)
    used = server.cpu_seconds() - used
    after = _core_times(setup.server_core), _core_times(setup.client_core)
    return Round(
        requests_per_s=seen["requests"] / (seen["duration_us"] / 1e6),
        requests_per_cpu_s=seen["requests"] / used if used else 0.0,
        p50_s=seen["p50_us"] / 1e6,
        p99_s=seen["p99_us"] / 1e6,
        max_s=seen["max_us"] / 1e6,
        errors={kind: seen[kind] for kind in seen if kind.endswith("errors") or kind in ("non_2xx", "timeouts")},
        server_cpu=used / (seen["duration_us"] / 1e6),
        server_core_busy=_busy(before[0], after[0]),
        client_core_busy=_busy(before[1], after[1]),
    )


def use(server: Server, requests: int) -> int:
    """Have it answer so many or more, in bursts on fresh connections, so that every worker gets some; returns how many.

    Raises `UnavailableError` when the client fails, or the server answers nothing.
    """
    answered = 0
    while answered < requests:
        command = ["wrk", "-t1", f"-c{USING}", "-d1s", "--timeout", "10s", "-s", str(WRK_LUA)]
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{server.port}/"], capture_output=True, text=True, timeout=60, check=False
        )
        lines = done.stdout.strip().splitlines()
        burst = int(json.loads(lines[-1])["requests"]) if lines and lines[-1].startswith("{") else 0
        if not burst:
            raise UnavailableError(f"load client: {(done.stderr.strip() or 'no answers').splitlines()[-1]}")
        answered += burst
    return answered


def _load(server: Server, scenario: Scenario, setup: Setup, seconds: int) -> dict[str, int]:
    command = _websocket_load if scenario.websocket else _wrk
    pinned = ["taskset", "-c", str(setup.client_core), *command(server, scenario, setup, seconds)]
    done = subprocess.run(pinned, capture_output=True, text=True, timeout=seconds + 60, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise UnavailableError(f"load client: {(done.stderr.strip() or 'no result').splitlines()[-1]}")
    return {name: int(value) for name, value in json.loads(lines[-1]).items()}


def _websocket_load(server: Server, scenario: Scenario, setup: Setup, seconds: int) -> list[str]:
    return [sys.executable, str(WEBSOCKET_LOAD), str(server.port), scenario.path, str(setup.connections), str(seconds)]


def _wrk(server: Server, scenario: Scenario, setup: Setup, seconds: int) -> list[str]:
    command = ["wrk", "-t1", f"-c{setup.connections}", f"-d{seconds}s"]
    command += ["--timeout", "10s", "-s", str(WRK_LUA)]
    command += [] if scenario.keepalive else ["-H", "Connection: close"]
    command += [f"http://127.0.0.1:{server.port}{scenario.path}"]
    if scenario.varied:
        return [*command, "--", "varied"]
    return [*command, "--", str(scenario.post_bytes)] if scenario.post_bytes else command


def _core_times(core: int) -> tuple[int, int]:
    """Idle and total clock ticks of one core since boot, proc(5)."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name == f"cpu{core}":
            ticks = [int(value) for value in values[:8]]
            return ticks[3] + ticks[4], sum(ticks)
    raise UnavailableError(f"/proc/stat: no core {core}")


def _busy(before: tuple[int, int], after: tuple[int, int]) -> float:
    idle, total = after[0] - before[0], after[1] - before[1]
    return 1.0 - idle / total if total else 0.0


@dataclass(frozen=True)
class Memory:
    """An idle server: the proportional set size of all its processes, and the resident one of its first. Bytes."""

    pss: int
    processes: int
    first_rss: int
    requests: int = 0  # answered before


def take_memory(server: Server) -> Memory:
    """When it has settled, or after half a minute."""
    deadline = time.monotonic() + STEADY_WITHIN_S
    last, since = _memory(server), time.monotonic()
    while time.monotonic() - since < STEADY_S and time.monotonic() < deadline:
        time.sleep(0.25)
        now = _memory(server)
        if now.processes != last.processes or abs(now.pss - last.pss) > 0.01 * last.pss:
            last, since = now, time.monotonic()
    return _memory(server)


def _memory(server: Server) -> Memory:
    sizes = [size for pid in server.tree() if (size := _rollup(pid))]
    if not sizes:
        raise UnavailableError("ended while its memory was read")
    return Memory(sum(size["Pss"] for size in sizes), len(sizes), sizes[0]["Rss"])


def _rollup(pid: int) -> dict[str, int]:
    """Bytes by name; nothing when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines[1:])
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _unit in fields}
