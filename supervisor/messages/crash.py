"""What is kept of a worker's abnormal end: the report, and the line of it that lists show.

Invariant: a report is complete in itself, and its JSON is its file, what the control API answers and what
`holdfastctl --json crashes ID` prints. Keys may be added, none changes its meaning.
"""

from __future__ import annotations

from msgspec import Struct


class End(Struct, frozen=True, kw_only=True):
    """How it ended. `reason` is what the log says; `signal` a name such as `SIGSEGV`, `exit_code` a number, or neither
    when its status was lost; `was_ready`: it had served."""

    reason: str
    signal: str | None = None
    exit_code: int | None = None
    core_dumped: bool = False
    was_ready: bool = False


class CrashRequest(Struct, frozen=True, kw_only=True):
    """A request that was with the app. `path` is without the query, `client` an address; `is_running`: the app's code
    was certainly running for it at the end; others waited, or ran in threads."""

    method: str
    path: str
    client: str
    age_s: float
    request_id: str = ""
    is_running: bool = False


class LogLine(Struct, frozen=True):
    """A line that it wrote; `ts` in seconds since the epoch."""

    ts: float
    stream: str
    line: str


class Moment(Struct, frozen=True):
    """One sample of it, `ago_s` seconds before its end. `lag_ms` is how late its event loop was; what memory it had at
    the very end nobody has seen."""

    ago_s: float
    rss_bytes: int | None
    lag_ms: float
    inflight: int


class CrashRelease(Struct, frozen=True):
    """What it was running: `settings` is a digest of the app's settings, the same for equal ones, without secrets."""

    generation: int
    home: str
    python: str | None
    settings: str


class CrashSummary(Struct, frozen=True, kw_only=True):
    """One report in a line. `serving` names the request, or how many there were; empty when there was none."""

    id: str
    ts: float  # of the end, in seconds since the epoch
    app: str
    slot: int
    pid: int
    end: End
    serving: str


class CrashReport(CrashSummary, frozen=True, kw_only=True):
    """All of it. `stacks` are faulthandler's, if a fatal signal left any; `other_requests` had not reached the app, or
    were too many to be told apart."""

    version: str  # holdfast's
    uptime_s: float
    restarts: int  # of its slot, before this one
    release: CrashRelease
    requests: tuple[CrashRequest, ...] = ()
    other_requests: int = 0
    stacks: str = ""
    log: tuple[LogLine, ...] = ()
    history: tuple[Moment, ...] = ()


class CrashList(Struct, frozen=True):
    """The answer to `/crashes`, the newest last."""

    crashes: tuple[CrashSummary, ...]
