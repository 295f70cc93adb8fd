"""What a crowd of connections costs a server, in memory and in other people's time."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environment import UnavailableError
from benchmarks.measure import Setup, take_memory
from benchmarks.server import Server

CROWD_LOAD = Path(__file__).with_name("crowd_load.py")
SIZES = {"idle": 10_000, "slow": 500}
PROBES_PER_S = 200
SPARE_DESCRIPTORS = 500


@dataclass(frozen=True)
class Crowd:
    """One visit of a crowd. `grown` is bytes of memory, of all the server's processes, for each connection."""

    grown: float
    alone_p50_s: float
    alone_p99_s: float
    among_p50_s: float
    among_p99_s: float
    among_max_s: float
    left: int  # connections that the server has closed meanwhile
    errors: int  # probes that got no answer


@dataclass
class CrowdFigures:
    """All visits to one server; or why there were none."""

    server: str
    reference: bool
    rounds: list[Crowd] = field(default_factory=list)
    skipped: str = ""

    def median(self, name: str) -> float:
        return statistics.median(float(getattr(each, name)) for each in self.rounds)


def need_descriptors(size: int) -> None:
    """Let this process and its children open so many connections. Raises `UnavailableError`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < size + SPARE_DESCRIPTORS:
        raise UnavailableError(f"{size} connections need as many descriptors, and ulimit -Hn says {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def take_crowd(server: Server, kind: str, path: str, setup: Setup) -> Crowd:
    """Probe, let the crowd come, probe again. Raises `UnavailableError` when the client fails."""
    client = _Client(server, kind, path, setup)
    try:
        alone = client.heard()["alone"]
        before = take_memory(server)
        client.go_on()
        came = client.heard()["open"]
        after = take_memory(server)
        client.go_on()
        last = client.heard()
    finally:
        client.end()
    among = last["among"]
    return Crowd(
        grown=(after.pss - before.pss) / setup.connections,
        alone_p50_s=alone["p50_us"] / 1e6,
        alone_p99_s=alone["p99_us"] / 1e6,
        among_p50_s=among["p50_us"] / 1e6,
        among_p99_s=among["p99_us"] / 1e6,
        among_max_s=among["max_us"] / 1e6,
        left=last["returns"] + setup.connections - min(came, last["open"]),
        errors=alone["errors"] + among["errors"],
    )


class _Client:
    """`crowd_load.py` on the client's core."""

    def __init__(self, server: Server, kind: str, path: str, setup: Setup) -> None:
        arguments = [str(server.port), path, kind, str(setup.connections), str(setup.seconds), str(PROBES_PER_S)]
        self._process = subprocess.Popen(
            ["taskset", "-c", str(setup.client_core), sys.executable, str(CROWD_LOAD), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def heard(self) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._process.stderr.read().strip().splitlines()
            raise UnavailableError(f"load client: {said[-1] if said else 'no result'}")
        told: dict[str, Any] = json.loads(line)
        return told

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
