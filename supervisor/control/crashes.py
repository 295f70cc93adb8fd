"""Crash reports as a person reads them.

Invariant: what an app, a client or a stack has put into a report is escaped, so that it can't steer the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table

from supervisor.control.tables import duration, size
from supervisor.control.terminal import Terminal
from supervisor.messages.crash import CrashReport, CrashRequest, CrashSummary, Moment
from supervisor.observe.render import escape


def list_crashes(terminal: Terminal, crashes: Sequence[CrashSummary]) -> None:
    """One line a report, the newest last."""
    if not crashes:
        terminal.say("no worker has crashed")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
    for title in ("ID", "WHEN", "WORKER", "HOW", "WHILE"):
        table.add_column(title, no_wrap=title != "WHILE")
    for crash in crashes:
        cells = (crash.id, _when(crash.ts), f"{crash.app}:{crash.slot}", crash.end.reason, crash.serving)
        table.add_row(*map(escape, cells))
    terminal.show(table)


def show_crash(terminal: Terminal, report: CrashReport) -> None:
    """All of it."""
    served = "" if report.end.was_ready else ", before it was ready"
    restarts = f", restarted {report.restarts} time{'s' * (report.restarts > 1)} before" if report.restarts else ""
    release = report.release
    python = f" with {release.python}" if release.python else ""
    terminal.say(f"{report.app}:{report.slot} (pid {report.pid}), {_when(report.ts)}")
    terminal.say(f"  ended:    {report.end.reason}, after {duration(report.uptime_s)}{served}{restarts}")
    if report.serving:
        terminal.say(f"  while:    {report.serving}")
    terminal.say(f"  release:  generation {release.generation} in {release.home}{python}, settings {release.settings}")
    terminal.say(f"  holdfast: {report.version}")
    _section(terminal, "requests", [_request(each) for each in report.requests])
    if report.requests and report.other_requests:
        terminal.say(f"    and {report.other_requests} more")
    _section(terminal, "stacks", report.stacks.splitlines())
    _section(terminal, "last output", [f"{_clock(each.ts)} {each.stream}: {each.line}" for each in report.log])
    _section(terminal, "last minute", [_moment(each) for each in report.history])


def _section(terminal: Terminal, title: str, lines: Sequence[str]) -> None:
    if lines:
        terminal.say(f"  {title}:")
        terminal.quote(lines)


def _request(request: CrashRequest) -> str:
    client = f" from {request.client}" if request.client else ""
    name = f", id {request.request_id}" if request.request_id else ""
    running = ", running" if request.is_running else ""
    return f"{request.method} {request.path}{client}, for {request.age_s:.1f} s{running}{name}"


def _moment(moment: Moment) -> str:
    rss = f"RSS {size(moment.rss_bytes)}, " if moment.rss_bytes else ""
    return f"{-moment.ago_s:6.1f} s: {rss}lag {moment.lag_ms:.1f} ms, {moment.inflight} in flight"


def _when(ts: float) -> str:
    return datetime.fromtimestamp(ts).isoformat(" ", "seconds")


def _clock(ts: float) -> str:
    return datetime.fromtimestamp(ts).time().isoformat("milliseconds")
