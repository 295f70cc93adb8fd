"""A status as a person reads it: a line an app, a line a worker, units that fit the eye.

Invariant: a narrow terminal loses columns, the least important first; it never gets broken lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
from rich.table import Table
from rich.text import Text

from supervisor.control.targets import ready
from supervisor.messages.status import AppStatus, RollStatus, Status, WorkerStatus
from supervisor.observe.render import escape

_COLOURS = {
    "running": "green",
    "ready": "green",
    "committed": "green",
    "starting": "cyan",
    "rolling": "cyan",
    "draining": "cyan",
    "stopping": "cyan",
    "saturated": "yellow",
    "degraded": "yellow",
    "backoff": "yellow",
    "rolled back": "red",
    "stalled": "red",
    "failed": "red",
    "stopped": "dim",
}
_FIRST = "  WORKER"
_GAP = 2  # columns between two cells


class Column(NamedTuple):
    """`keep` says how long the column stays when the window gets narrower: higher is longer."""

    title: str
    keep: int
    cell: Callable[[WorkerStatus], str]


_COLUMNS = (
    Column("PID", 9, lambda it: str(it.pid)),
    Column("GEN", 7, lambda it: str(it.generation)),
    Column("STATE", 10, lambda it: it.state),
    Column("UPTIME", 8, lambda it: duration(it.uptime_s)),
    Column("INFLIGHT", 6, lambda it: str(it.inflight)),
    Column("CONNS", 3, lambda it: str(it.connections)),
    Column("REQUESTS", 6, lambda it: str(it.requests)),
    Column("LAG", 4, lambda it: f"{it.lag_ms:.1f} ms"),
    Column("MAX", 1, lambda it: f"{it.lag_max_ms:.1f} ms"),
    Column("RSS", 5, lambda it: size(it.rss_bytes)),
    Column("PSS", 2, lambda it: size(it.pss_bytes)),
    Column("USS", 0, lambda it: size(it.uss_bytes)),
    Column("CPU", 5, lambda it: f"{it.cpu_percent:.0f}%"),
    Column("RESTARTS", 4, lambda it: str(it.restarts)),
)


def master_line(status: Status) -> Text:
    """Who answers."""
    text = Text(f"holdfast {escape(status.version)}, pid {status.pid}, up {duration(status.uptime_s)}, ")
    return text.append(status.state, _COLOURS.get(status.state, ""))


def app_line(name: str, app: AppStatus) -> Text:
    """One app in one line; its last roll, if there was one, at the end."""
    there, slots = ready(app)
    line = Text().append(escape(name), "bold").append("  ").append(app.state, _COLOURS.get(app.state, ""))
    facts = [f"generation {app.generation}", " ".join(map(escape, app.bind)), f"{there}/{slots} ready"]
    facts += [_count(app.totals.requests, "request"), _count(app.totals.restarts, "restart")]
    facts += [f"{app.totals.shed} shed"] if app.totals.shed else []
    facts += [f"max {size(app.max_memory_bytes)} a worker"] if app.max_memory_bytes is not msgspec.UNSET else []
    line.append("  " + "  ".join(facts))
    if app.totals.lost:
        line.append(f"  {app.totals.lost} lost", "red")
    if app.last_roll:
        line.append("  ").append_text(_roll(app.last_roll))
    return line


def worker_table(name: str, workers: Iterable[WorkerStatus], width: int) -> Table:
    """One line a worker, no wider than `width` columns if that can be."""
    rows = [(f"{escape(name)}:{worker.slot}", worker) for worker in workers]
    cells = {column: [_cell(column, worker) for _, worker in rows] for column in _COLUMNS}
    columns = _fitting(cells, width - max(len(text) for text in [_FIRST, *("  " + target for target, _ in rows)]))
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
    table.add_column(_FIRST, no_wrap=True)
    for column in columns:
        table.add_column(column.title, no_wrap=True, justify="left" if column.title == "STATE" else "right")
    for number, (target, worker) in enumerate(rows):
        texts = [
            Text(cells[column][number], _COLOURS.get(worker.state, "") if column.title == "STATE" else "")
            for column in columns
        ]
        table.add_row(Text("  " + target), *texts)
    return table


def roll_table(rolls: Mapping[str, Sequence[RollStatus]]) -> Table:
    """One line a roll, the newest last."""
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
    for title in ("APP", "BEGAN", "FROM", "TO", "VERDICT", "TOOK", "REQUESTS", "CUT", "RESET", "REASON"):
        is_text = title in ("APP", "BEGAN", "VERDICT", "REASON")
        table.add_column(title, no_wrap=title != "REASON", justify="left" if is_text else "right")
    for name, of_app in rolls.items():
        for roll in of_app:
            table.add_row(escape(name), *_roll_cells(roll))
    return table


def duration(seconds: float) -> str:
    """`0.4s`, `12s`, `3m 5s`, `2h 10m`, `4d 3h`: two units at most."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= length:
            return f"{whole // length}{unit} {whole % length // part}{smaller}"
    return f"{whole}s"


def size(count: int) -> str:
    """Bytes as `512K`, `48M`, `1.5G`."""
    if count < 2**20:
        return f"{count / 2**10:.0f}K"
    return f"{count / 2**20:.0f}M" if count < 2**30 else f"{count / 2**30:.1f}G"


def _cell(column: Column, worker: WorkerStatus) -> str:
    """An empty slot has a state and a history, but nothing to measure."""
    return column.cell(worker) if worker.pid or column.title in ("STATE", "RESTARTS") else "-"


def _roll_cells(roll: RollStatus) -> list[str | Text]:
    verdict, ledger = roll.verdict.replace("_", " "), roll.ledger
    return [
        datetime.fromtimestamp(roll.at).isoformat(" ", "seconds"),
        str(roll.from_),
        str(roll.to),
        Text(verdict, _COLOURS.get(verdict, "")),
        duration(roll.seconds),
        *map(str, (ledger.accepted, ledger.cut, ledger.reset)),
        Text(escape(roll.reason)),
    ]


def _roll(roll: RollStatus) -> Text:
    if roll.verdict == "running":
        return Text(f"roll {roll.from_} to {roll.to} under way for {roll.seconds:.1f}s", "cyan")
    verdict = roll.verdict.replace("_", " ")
    text = Text(f"roll {roll.from_} to {roll.to} ").append(verdict, _COLOURS[verdict])
    text.append(f" after {roll.seconds:.1f}s" if verdict == "rolled back" else f" in {roll.seconds:.1f}s")
    return text.append(f": {escape(roll.reason)}") if roll.reason else text


def _fitting(cells: dict[Column, list[str]], width: int) -> list[Column]:
    columns = list(cells)
    widths = {column: _GAP + max(len(text) for text in [column.title, *texts]) for column, texts in cells.items()}
    while len(columns) > 1 and sum(widths[column] for column in columns) > width:
        columns.remove(min(columns, key=lambda column: column.keep))
    return columns


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
