"""What is left of a server's peak when ten times as many clients come, and of its quickness when a worker is blocked.

The app computes for `COMPUTES_S` a request. `CLIENTS` keep a worker of it busy and are all answered within a second; of
ten times as many, who give up after a second, most are not, whatever the server does: what differs is how many are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.environment import Environment, UnavailableError
from benchmarks.impatient_load import Seen
from benchmarks.measure import Setup
from benchmarks.peers import GRANIAN_ASGI, GUNICORN_ASGI, HOLDFAST, UVICORN, Peer
from benchmarks.server import Server, check, running

OVERLOAD = (HOLDFAST, GUNICORN_ASGI, UVICORN, GRANIAN_ASGI)
APP = "plain_asgi:app"
COMPUTES_S = 0.005
TIMES = 10
IMPATIENT = Path(__file__).with_name("impatient_load.py")
BLOCKED_WORKERS = 4
BLOCKED_S = 4  # as the path says
NEWCOMERS = 4  # clients at once, with a new connection for each request
BESIDE_S = 1.5


@dataclass
class Overload:
    """One server's peak, and what it did for the crowd; or why it was not asked."""

    server: str
    peak: Seen | None = None
    crowd: Seen | None = None
    skipped: str = ""

    @property
    def kept(self) -> float:
        """The answers in time, of those of the peak."""
        return self.crowd.ok_per_s / self.peak.ok_per_s if self.crowd and self.peak and self.peak.ok_per_s else 0.0


def take_overload(environment: Environment, peer: Peer, name: str, setup: Setup) -> Overload:
    """Raises nothing: what goes wrong is why it is skipped."""
    try:
        with running(environment, peer, setup.server_core, APP, 1, 8) as server:
            check(server, "/compute", 0, b"computed")
            peak = visit(server, "/compute", setup.connections, setup.seconds, setup)
            crowd = visit(server, "/compute", TIMES * setup.connections, setup.seconds, setup)
    except UnavailableError as error:
        return Overload(name, skipped=str(error))
    return Overload(name, peak, crowd)


def take_blocked(environment: Environment, setup: Setup) -> tuple[Seen, Seen]:
    """New connections to four workers, before one of them is blocked and while it is. Raises `UnavailableError`."""
    with running(environment, HOLDFAST, setup.server_core, APP, BLOCKED_WORKERS, 8) as server:
        before = visit(server, "/", NEWCOMERS, BESIDE_S, setup, "fresh")
        blocked = threading.Thread(target=server.ask, args=("/block",))
        blocked.start()
        beside = visit(server, "/", NEWCOMERS, BESIDE_S, setup, "fresh")
        blocked.join()
    return before, beside


def visit(server: Server, path: str, clients: int, seconds: float, setup: Setup, *more: str) -> Seen:
    """Raises `UnavailableError` when the client fails."""
    arguments = [str(server.port), path, str(clients), str(seconds), *more]
    command = ["taskset", "-c", str(setup.client_core), sys.executable, str(IMPATIENT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise UnavailableError(f"load client: {(done.stderr.strip() or 'no result').splitlines()[-1]}")
    return Seen(**json.loads(done.stdout))


def overload_table(found: Sequence[Overload], blocked: tuple[Seen, Seen]) -> str:
    """One line a server, the best first."""
    lines = [f"overload: {1e3 * COMPUTES_S:.0f} ms of computing a request; answers within 1 s, a second"]
    lines.append(f"  {'':20} {'peak':>7} {'crowd':>7} {'kept':>6} {'p50':>8} {'p99':>8} {'503/s':>7} {'late/s':>7}")
    for each in sorted(found, key=lambda each: -each.kept):
        if each.peak is None or each.crowd is None:
            lines.append(f"  {each.server}: skipped, {each.skipped}")
            continue
        crowd = each.crowd
        lines.append(
            f"  {each.server:20} {each.peak.ok_per_s:7.0f} {crowd.ok_per_s:7.0f} {100 * each.kept:4.0f} %"
            f" {1e3 * crowd.p50_s:5.0f} ms {1e3 * crowd.p99_s:5.0f} ms {crowd.shed_per_s:7.0f} {crowd.late_per_s:7.0f}"
        )
    before, beside = blocked
    lines.append(
        f"  1 of {BLOCKED_WORKERS} workers blocked for {BLOCKED_S} s: new connections' p99 {1e3 * beside.p99_s:.2f} ms"
        f" (before: {1e3 * before.p99_s:.2f} ms), {beside.late_per_s:.1f} a second gave up"
    )
    return "\n".join(lines)


def overload_object(found: Sequence[Overload], blocked: tuple[Seen, Seen]) -> dict[str, Any]:
    servers = [asdict(each) | {"kept": each.kept} for each in found]
    return {"scenario": "overload", "servers": servers, "blocked": [asdict(each) for each in blocked]}
