"""What watching costs: requests with everything on and with everything off, and the master's time for idle workers."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.environment import Environment, UnavailableError
from benchmarks.peers import HOLDFAST, Launch, Peer, command_of_holdfast
from benchmarks.scenarios import SCENARIOS
from benchmarks.server import Server, running

OFF = ("--lag-limit", "0", "--queue-timeout", "0", "--stall-warn", "0", "--stall-timeout", "0", "--request-warn", "0")
IDLE_WORKERS = (16, 64)
IDLE_S = 30.0
SETTLE_S = 4.0  # after the last worker has come: what a start needs is over by then
FORK_WITHIN_S = 30.0


def _unwatched(environment: Environment, launch: Launch) -> list[str]:
    return [*command_of_holdfast(environment, launch), *OFF]


WATCHED = replace(HOLDFAST, name="holdfast, watching")
UNWATCHED = Peer("holdfast, not watching", _unwatched, HOLDFAST.alternatives, HOLDFAST.distribution)
WATCHING = replace(
    SCENARIOS[0],
    name="watching",
    about="ASGI, 13 bytes, with all that is watched and with none",
    peers=(WATCHED, UNWATCHED),
)


@dataclass(frozen=True)
class Idle:
    """The master of so many idle workers: what it used of a core in how many seconds, and how often it slept."""

    workers: int
    seconds: float
    cpu_seconds: float
    wake_ups: int

    @property
    def share(self) -> float:
        return self.cpu_seconds / self.seconds


def take_idle(environment: Environment, workers: int) -> Idle:
    """Raises `UnavailableError` when they don't come up."""
    with running(environment, HOLDFAST, None, SCENARIOS[0].app, workers, 8) as server:
        _wait_for(server, workers)
        time.sleep(SETTLE_S)
        began, used, slept = time.monotonic(), _cpu_seconds(server.pid), _sleeps(server.pid)
        time.sleep(IDLE_S)
        return Idle(workers, time.monotonic() - began, _cpu_seconds(server.pid) - used, _sleeps(server.pid) - slept)


def per_worker(few: Idle, many: Idle) -> float:
    """Seconds of CPU for one worker and second: the slope between the two."""
    return (many.share - few.share) / (many.workers - few.workers)


def _wait_for(server: Server, workers: int) -> None:
    deadline = time.monotonic() + FORK_WITHIN_S
    while len(server.tree()) < workers + 2:  # the master and the spawner
        if time.monotonic() > deadline:
            raise UnavailableError(f"not {workers} workers within {FORK_WITHIN_S:.0f} s")
        time.sleep(0.1)


def _cpu_seconds(pid: int) -> float:
    """By the scheduler's own count in nanoseconds: the clock ticks of /proc/PID/stat are as long as a round takes."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _sleeps(pid: int) -> int:
    """How often it has waited for something to happen, proc_pid_status(5)."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["voluntary_ctxt_switches"])
