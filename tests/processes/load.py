"""A constant load on an HTTP server, of which every single request is accounted for.

Invariant: each request that was begun ends in exactly one bin, `ok` or one kind of loss, and nothing is retried. So
`report.lost == 0` says that no client saw a fault, and `requests == ok + lost` always holds.

What counts as a loss is what a user would see as one:

- `refused`: the connection was not accepted.
- `reset`: ECONNRESET or EPIPE under a request.
- `closed`: end of stream before the whole answer; also when a request was written onto a kept-alive connection that the
  server closed at that moment without having said `Connection: close`, and not one byte came back. RFC 9112 section
  9.3.1 lets a client retry some of those; a POST it may not, and this client retries none. `lost_reused` counts them.
- `5xx`: the server answered with an error of its own.
- `wrong`: another status than 2xx, another body than the one expected, or what is no HTTP answer at all.
- `timeout`: no whole answer within `timeout_s`.

A kept-alive connection that is found closed *before* any byte of the next request was sent is no loss (`closed_idle`),
neither is one on which the server said `Connection: close` (`closed_politely`): the client opens another.

    with Load("127.0.0.1:8000", connections=24) as load:
        ...
        report = load.stop()
    assert report.lost == 0, report
    assert report.longest_gap_s < 0.1

The load runs in a process of its own (`tests.processes.load_client`), so that a busy test does not starve it. The
endpoint, unless `echo` is off, answers `GET path?TOKEN` with `TOKEN` and a POST with its body; it may tell who answered
in the headers `x-pid` and `x-release`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

Loss = Literal["refused", "reset", "closed", "5xx", "wrong", "timeout"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
ROOT = Path(__file__).resolve().parents[2]


class LoadError(Exception):
    """The load itself could not run (no free port or descriptor left, its process died): no verdict on the server."""


@dataclass
class Plan:
    """What load to make. Shares are between 0 and 1; the counts are rounded, with at least one client in all."""

    address: str  # "127.0.0.1:8000", "[::1]:8000" or "unix:/absolute/path"
    connections: int = 24  # clients at work at any time
    fresh: float = 0.5  # share of them that open a connection for each request; the others keep theirs
    posts: float = 0.5  # share of requests that are POSTs
    path: str = "/"
    pause_s: float = 0.0  # every other keeper of a connection rests 0 to twice this long between requests
    all_rest: bool = False  # and so does every one between
    echo: bool = True  # False: the path is any page; only GET, and only the status and the framing are checked
    timeout_s: float = 10.0  # for one request, connecting included
    max_seconds: float = 600.0  # ends by itself
    max_requests: int = 10_000_000


@dataclass
class Report:
    """What became of the requests, in a window of time or in all. Times are seconds."""

    seconds: float = 0.0
    requests: int = 0
    ok: int = 0
    lost: int = 0
    lost_by: dict[Loss, int] = field(default_factory=dict)
    lost_reused: int = 0  # of the lost: on a kept-alive connection, not one byte of the answer had come
    losses: list[dict[str, Any]] = field(default_factory=list)  # the first few: when, kind, method, connection, detail
    connects: int = 0
    reconnects: int = 0  # of clients that keep their connection, and had to open another
    closed_idle: int = 0  # kept-alive connections found closed before the next request: no loss
    closed_politely: int = 0  # kept-alive connections that ended with `Connection: close`
    requests_per_s: float = 0.0
    longest_gap_s: float = 0.0  # without any answer to anybody
    longest_gap_at_s: float = 0.0  # when it began, since the load's start
    client_stall_s: float = 0.0  # the longest time the client itself did not run: an upper bound of its share of a gap
    p50_s: float = 0.0
    p99_s: float = 0.0
    max_s: float = 0.0
    pids: dict[str, int] = field(default_factory=dict)  # answers by the header x-pid
    releases: dict[str, int] = field(default_factory=dict)  # answers by the header x-release


@dataclass
class Load(Plan):
    """A plan that runs from `with` (or `start`) to `stop`. Not safe for use from several threads.

    `patience_s` is how long its process may take to answer: on a machine that stops it for a while, longer than that.
    """

    patience_s: float = 30.0

    _process: subprocess.Popen[str] | None = field(default=None, init=False, repr=False)
    _report: Report | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and kind is None:
            self.stop()
        self._kill()

    def start(self) -> None:
        """Begin. Returns when the clients are about to send; raises `LoadError` when their process can't start."""
        plan = {each.name: getattr(self, each.name) for each in fields(Plan)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.load_client", json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C is for whoever reads the report; the end of the pipe ends the process
        )
        if self._line(within_s=self.patience_s) != "started":
            raise LoadError("the load's process did not start")

    def snapshot(self) -> Report:
        """Everything since the start, while the load goes on."""
        return self._ask("snapshot", within_s=self.patience_s)

    def window(self) -> Report:
        """What happened since the last call (or the start), while the load goes on."""
        return self._ask("window", within_s=self.patience_s)

    def stop(self) -> Report:
        """Finish the requests under way, end the process and report on everything. A second call reports the same."""
        if self._report is None:
            try:
                self._report = self._ask("stop", within_s=self.timeout_s + self.patience_s)
            finally:
                self._kill()
        return self._report

    def _ask(self, command: str, within_s: float) -> Report:
        if self._process is None or self._process.stdin is None:
            raise LoadError("the load is not running")
        with contextlib.suppress(BrokenPipeError):  # it is gone: why may still be in the other pipe
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        line = self._line(within_s)
        if not line.startswith("{"):
            raise LoadError(line or f"the load's process ended with status {self._process.wait()}")
        return Report(**json.loads(line))

    def _line(self, within_s: float) -> str:
        """The next line of the process; empty when it is gone, or has been killed for taking too long."""
        assert self._process is not None
        assert self._process.stdout is not None
        guard = threading.Timer(within_s, self._process.kill)
        guard.start()
        try:
            return self._process.stdout.readline().strip()
        finally:
            guard.cancel()
            guard.join()

    def _kill(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a command nobody read
                    pipe.close()
        self._process = None
