"""Tables for a person, objects for a program."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.crowd import CrowdFigures
from benchmarks.measure import Figures, Memory, Setup
from benchmarks.scenarios import Scenario
from benchmarks.watching import Idle, per_worker

BOTTLENECK = 0.93  # of its core: a server that used less of it was limited by something else

Row = Sequence[str]


def about(setup: Setup) -> str:
    """The line that every figure depends on."""
    return (
        f"{setup.rounds} alternating rounds of {setup.seconds} s, medians, ratios within rounds; "
        f"{setup.connections} connections; "
        f"one worker on core {setup.server_core}, the client on core {setup.client_core}; "
        f"Python {platform.python_version()}, Linux {platform.release()}, {_processor()}"
    )


def speed_table(scenario: Scenario, all_figures: Sequence[Figures]) -> str:
    rows: list[Row] = [
        ("", "req/s", "spread", "per cpu s", "p50", "p99", "its cpu", "its core", "client's core", "holdfast is")
    ]
    notes = []
    ours = next((each for each in all_figures if each.server.startswith("holdfast") and each.rounds), None)
    for figures in sorted(all_figures, key=_rate, reverse=True):
        if figures.skipped:
            notes.append(f"  {figures.server}: skipped, {figures.skipped}")
            continue
        rows.append(_speed_row(figures, ours))
        notes += _doubts(figures)
    lines = [f"{scenario.name}: {scenario.about}", *aligned(rows), *notes]
    return "\n".join([*lines, *_verdict(all_figures, ours)])


def _rate(figures: Figures) -> float:
    return figures.median("requests_per_s") if figures.rounds else 0.0


def _speed_row(figures: Figures, ours: Figures | None) -> Row:
    return (
        figures.server + (" (fixed answer)" if figures.reference else ""),
        f"{_rate(figures):,.0f}",
        f"±{100 * figures.spread():.1f} %" if len(figures.rounds) > 1 else "",
        f"{figures.median('requests_per_cpu_s'):,.0f}",
        f"{1e3 * figures.median('p50_s'):.2f} ms",
        f"{1e3 * figures.median('p99_s'):.2f} ms",
        *(f"{100 * figures.median(name):.0f} %" for name in ("server_cpu", "server_core_busy", "client_core_busy")),
        f"{ours.times(figures):.2f} x" if ours and ours is not figures else "",
    )


def _doubts(figures: Figures) -> list[str]:
    doubts = []
    if figures.median("server_cpu") < BOTTLENECK:
        others = figures.median("server_core_busy") - figures.median("server_cpu")
        culprit = "others were busy there" if others > 0.5 * (1 - BOTTLENECK) else "the client could not ask for more"
        doubts.append(f"used {figures.median('server_cpu'):.0%} of its core, {culprit}: this is not its limit")
    if figures.errors():
        doubts.append(", ".join(f"{kind} {count}" for kind, count in figures.errors().items()))
    return [f"  {figures.server}: {doubt}" for doubt in doubts]


def _verdict(all_figures: Sequence[Figures], ours: Figures | None) -> list[str]:
    measured = (each for each in all_figures if each.rounds and not each.reference)
    others = [each for each in measured if not each.server.startswith("holdfast")]
    if ours is None or not others:
        return []
    best = min(others, key=ours.times)
    return [f"  holdfast: {ours.times(best):.2f} times the best of the others, {best.server}"]


def speed_object(scenario: Scenario, all_figures: Sequence[Figures]) -> dict[str, Any]:
    return {"scenario": scenario.name, "servers": [_figures_object(figures) for figures in all_figures]}


def _figures_object(figures: Figures) -> dict[str, Any]:
    found = asdict(figures) | {"errors": figures.errors()}
    for name in (
        ("requests_per_s", "requests_per_cpu_s", "p50_s", "p99_s", "server_cpu", "server_core_busy", "client_core_busy")
        if figures.rounds
        else ()
    ):
        found[name] = figures.median(name)
    return found


def watching_table(scenario: Scenario, watched: Figures, unwatched: Figures) -> str:
    """Both, and how many times the other's requests each round had: one in four was below the first figure in the
    brackets, one in four above the second."""
    table = speed_table(scenario, [watched, unwatched])
    if not watched.rounds or not unwatched.rounds:
        return table
    lines = []
    for name, title in (("requests_per_s", "requests/s"), ("requests_per_cpu_s", "requests per CPU second")):
        ratios = watched.ratios(unwatched, name)
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        lines.append(f"  {title}: watching has {middle:.3f} times as many [{low:.3f}, {high:.3f}]")
    return "\n".join([table, *lines])


def master_table(found: Sequence[Idle]) -> str:
    rows: list[Row] = [("", "of a core", "wake-ups/s")]
    rows += [
        (f"{each.workers} workers", f"{100 * each.share:.2f} %", f"{each.wake_ups / each.seconds:.1f}")
        for each in found
    ]
    each_s = per_worker(found[0], found[-1])
    thousand = found[-1].share + (1000 - found[-1].workers) * each_s
    note = (
        f"  {1e6 * each_s:.0f} µs for each worker and second; 1,000 workers would take {100 * thousand:.1f} % of a core"
    )
    return "\n".join([f"master: CPU time in {found[0].seconds:.0f} s, all workers idle", *aligned(rows), note])


def master_object(found: Sequence[Idle]) -> dict[str, Any]:
    return {
        "scenario": "master",
        "idle": [asdict(each) for each in found],
        "cpu_seconds_per_worker_and_second": per_worker(found[0], found[-1]),
    }


def memory_table(found: dict[str, Memory | str], workers: int) -> str:
    """`found` maps a server to its memory, or to why there is none."""
    rows: list[Row] = [("", "PSS", "processes", "first's RSS", "of holdfast", "requests")]
    measured = {name: each for name, each in found.items() if isinstance(each, Memory)}
    ours = next((each for name, each in measured.items() if name.startswith("holdfast")), None)
    for name, memory in sorted(measured.items(), key=lambda item: item[1].pss):
        ratio = f"{memory.pss / ours.pss:.2f} x" if ours and memory is not ours else ""
        rows.append(
            (
                name,
                _megabytes(memory.pss),
                str(memory.processes),
                _megabytes(memory.first_rss),
                ratio,
                f"{memory.requests:,}",
            )
        )
    skipped = [f"  {name}: skipped, {each}" for name, each in found.items() if isinstance(each, str)]
    used = max((memory.requests for memory in measured.values()), default=0)
    what = f"a FastAPI app after up to {used:,} requests" if used else "an idle FastAPI app"
    return "\n".join([f"memory: {what}, {workers} workers, all processes", *aligned(rows), *skipped])


def memory_object(found: dict[str, Memory | str]) -> dict[str, Any]:
    return {
        "scenario": "memory",
        "servers": [
            {"server": name} | (asdict(each) if isinstance(each, Memory) else {"skipped": each})
            for name, each in found.items()
        ],
    }


_CROWDS = {
    "idle": "{size:,} connections that have asked once and are kept",
    "slow": "{size:,} clients that drip their heads, a byte a second",
}


def crowd_table(kind: str, size: int, all_figures: Sequence[CrowdFigures]) -> str:
    """What a connection of the crowd costs in memory, and what requests of others take without and with it."""
    rows: list[Row] = [("", "memory each", "alone p50", "p99", "among them p50", "p99", "max", "closed")]
    notes = [f"  {each.server}: skipped, {each.skipped}" for each in all_figures if each.skipped]
    for figures in sorted((each for each in all_figures if each.rounds), key=lambda each: each.median("grown")):
        times = ("alone_p50_s", "alone_p99_s", "among_p50_s", "among_p99_s", "among_max_s")
        rows.append(
            (
                figures.server + (" (fixed answer)" if figures.reference else ""),
                f"{figures.median('grown') / 1024:.1f} KiB",
                *(f"{1e3 * figures.median(name):.2f} ms" for name in times),
                f"{figures.median('left'):,.0f}",
            )
        )
        errors = sum(each.errors for each in figures.rounds)
        notes += [f"  {figures.server}: {errors} requests got no answer"] if errors else []
    return "\n".join([f"crowd: {_CROWDS[kind].format(size=size)}, and others' requests", *aligned(rows), *notes])


def crowd_object(kind: str, size: int, all_figures: Sequence[CrowdFigures]) -> dict[str, Any]:
    return {"scenario": f"crowd-{kind}", "size": size, "servers": [asdict(figures) for figures in all_figures]}


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def aligned(rows: Sequence[Row]) -> list[str]:
    """A line a row, its first cell to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + row[0].ljust(widths[0])
        + "".join(f"  {cell.rjust(width)}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
