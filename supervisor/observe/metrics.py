"""The status as Prometheus text.

Invariant: one scrape never has the same series twice, whatever the fleet is doing: while a slot has a leaving worker
beside its new one, the slot's gauges are their sum (lag: the worse one). Counters are the app's totals, which include
the dead, so none ever goes backwards.

Written by hand, since the format is a few lines and prometheus_client costs the master 12 MB; the tests read it with
prometheus_client's parser. Source: the text exposition format 0.0.4,
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import get_args

import msgspec

from supervisor.messages.status import (
    AppState,
    AppStatus,
    RollStatus,
    RollTotals,
    SlotState,
    Status,
    Totals,
    Verdict,
    WorkerStatus,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = dict[str, str]
Sample = tuple[Labels, float]
Apps = dict[str, AppStatus]
Ended = Mapping[str, Mapping[str, int]]

_COUNTERS: tuple[tuple[str, str, Callable[[Totals], int]], ...] = (
    ("holdfast_requests_total", "Requests taken by workers.", lambda totals: totals.requests),
    ("holdfast_shed_total", "Requests turned away because no worker had room.", lambda totals: totals.shed),
    ("holdfast_lost_total", "Requests taken whose answer the client did not get whole.", lambda totals: totals.lost),
    ("holdfast_restarts_total", "Workers replaced after they died.", lambda totals: totals.restarts),
    ("holdfast_stalls_total", "Times a worker was found blocked.", lambda totals: totals.stalls),
)

_ROLL_COUNTERS: tuple[tuple[str, str, Callable[[RollTotals], int]], ...] = (
    ("holdfast_rolls_committed_total", "Rolls that were committed.", lambda totals: totals.committed),
    ("holdfast_rolls_rolled_back_total", "Rolls that were rolled back.", lambda totals: totals.rolled_back),
    (
        "holdfast_connections_handed_over_total",
        "Connections that a leaving worker gave to another.",
        lambda totals: totals.handed_over,
    ),
    (
        "holdfast_connections_drained_total",
        "Connections that a leaving worker saw to their proper end.",
        lambda totals: totals.drained,
    ),
    (
        "holdfast_connections_cut_total",
        "Connections ended under their clients at the drain timeout.",
        lambda totals: totals.connections_cut,
    ),
)

_SLOT_GAUGES: tuple[tuple[str, str, Callable[[list[WorkerStatus]], float]], ...] = (
    ("holdfast_worker_inflight", "Requests being served.", lambda ws: sum(w.inflight for w in ws)),
    ("holdfast_worker_connections", "Connections open.", lambda ws: sum(w.connections for w in ws)),
    ("holdfast_worker_lag_seconds", "Delay of the event loop.", lambda ws: max(w.lag_ms for w in ws) / 1000),
    (
        "holdfast_worker_lag_max_seconds",
        "Worst delay of the event loop in the last minute.",
        lambda ws: max(w.lag_max_ms for w in ws) / 1000,
    ),
    (
        "holdfast_worker_rss_bytes",
        "Resident memory, shared pages included.",
        lambda ws: sum(w.rss_bytes for w in ws),
    ),
    (
        "holdfast_worker_pss_bytes",
        "Resident memory, shared pages divided by their sharers.",
        lambda ws: sum(w.pss_bytes for w in ws),
    ),
    (
        "holdfast_worker_uss_bytes",
        "Resident memory, shared pages not counted.",
        lambda ws: sum(w.uss_bytes for w in ws),
    ),
    ("holdfast_worker_cpu_ratio", "CPUs in use: 1 is one whole.", lambda ws: sum(w.cpu_percent for w in ws) / 100),
)


def exposition(status: Status, ended: Ended, rolls: Mapping[str, RollTotals]) -> Iterator[str]:
    """All families of one snapshot, each with its HELP and TYPE lines, made when it is asked for. `ended` counts, by
    app, what limits and broken HTTP have ended, by kind; `rolls` is by app, too."""
    yield from _instance(status)
    yield from _apps(status.apps)
    yield from _counters(status.apps)
    yield from _ended(ended)
    yield from _slots(status.apps)
    for name, about, value in _ROLL_COUNTERS:
        yield _family(name, "counter", about, [({"app": app}, value(it)) for app, it in rolls.items()])


def master_lag(seconds: float, own: float) -> Iterator[str]:
    """The families that tell of the master's own loop: its longest turn, and the CPU time of the busiest one."""
    about = "Longest turn of the master's loop in the last minute: what fell due meanwhile was so late at most."
    yield _family("holdfast_master_lag_max_seconds", "gauge", about, [({}, seconds)])
    about = "CPU time of the busiest turn of the master's loop in the last minute: what of the lag was its own doing."
    yield _family("holdfast_master_turn_cpu_max_seconds", "gauge", about, [({}, own)])


def crash_reports(lost: int) -> str:
    """The family that tells of crash reports."""
    about = "Crash reports that could not be written to crash_dir."
    return _family("holdfast_crash_reports_lost_total", "counter", about, [({}, lost)])


def _instance(status: Status) -> Iterator[str]:
    yield _family("holdfast_up", "gauge", "Whether the master answers.", [({}, 1)])
    yield _family("holdfast_info", "gauge", "The version that runs.", [({"version": status.version}, 1)])
    yield _family("holdfast_uptime_seconds", "gauge", "Age of the master.", [({}, status.uptime_s)])


def _apps(apps: Apps) -> Iterator[str]:
    yield _family(
        "holdfast_app_state",
        "gauge",
        "1 for the state the app is in.",
        (sample for name, app in apps.items() for sample in _one_of("state", get_args(AppState), app.state, name)),
    )
    yield _family(
        "holdfast_generation",
        "gauge",
        "The release being served, counted from 1.",
        (({"app": name}, app.generation) for name, app in apps.items()),
    )
    yield _family("holdfast_workers", "gauge", "Workers by state.", _workers_by_state(apps))
    yield _family(
        "holdfast_max_memory_bytes",
        "gauge",
        "Resident memory past which a worker is replaced.",
        (({"app": name}, limit) for name, app in apps.items() if (limit := app.max_memory_bytes) is not msgspec.UNSET),
    )
    rolls = {name: app.last_roll for name, app in apps.items() if app.last_roll is not None}
    yield from _rolls(rolls)


def _rolls(rolls: dict[str, RollStatus]) -> Iterator[str]:
    yield _family(
        "holdfast_last_roll",
        "gauge",
        "1 for the verdict on the last roll.",
        (
            sample
            for name, roll in rolls.items()
            for sample in _one_of("verdict", get_args(Verdict), roll.verdict, name)
        ),
    )
    yield _family(
        "holdfast_last_roll_seconds",
        "gauge",
        "How long the last roll took, or takes so far.",
        (({"app": name}, roll.seconds) for name, roll in rolls.items()),
    )
    yield _family(
        "holdfast_last_roll_requests",
        "gauge",
        "What became of the requests during the last roll.",
        (
            ({"app": name, "outcome": outcome}, getattr(roll.ledger, outcome))
            for name, roll in rolls.items()
            for outcome in ("completed", "cut", "reset", "under_way")
        ),
    )


def _counters(apps: Apps) -> Iterator[str]:
    for name, about, value in _COUNTERS:
        yield _family(name, "counter", about, [({"app": app}, value(status.totals)) for app, status in apps.items()])


def _ended(apps: Ended) -> Iterator[str]:
    yield _family(
        "holdfast_ended_total",
        "counter",
        "Requests and connections ended by a limit, or by what was wrong with them.",
        (({"app": app, "by": kind}, count) for app, ended in apps.items() for kind, count in ended.items()),
    )


def _slots(apps: Apps) -> Iterator[str]:
    slots: dict[tuple[str, int], list[WorkerStatus]] = {}
    for name, app in apps.items():
        for worker in app.workers:
            slots.setdefault((name, worker.slot), []).append(worker)
    for name, about, value in _SLOT_GAUGES:
        samples = (({"app": app, "slot": str(slot)}, value(workers)) for (app, slot), workers in slots.items())
        yield _family(name, "gauge", about, samples)


def _workers_by_state(apps: Apps) -> Iterator[Sample]:
    """Every state of every app, zeros too: a series that comes and goes can't be alerted on."""
    for name, app in apps.items():
        for state in get_args(SlotState):
            yield {"app": name, "state": state}, sum(worker.state == state for worker in app.workers)


def _one_of(label: str, values: Iterable[str], current: str, app: str) -> Iterator[Sample]:
    for value in values:
        yield {"app": app, label: value}, float(value == current)


def _family(name: str, kind: str, about: str, samples: Iterable[Sample]) -> str:
    """One metric's lines; empty without samples."""
    lines = [f"{name}{_labels(labels)} {value}\n" for labels, value in samples]
    return "".join([f"# HELP {name} {about}\n# TYPE {name} {kind}\n", *lines]) if lines else ""


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items()) + "}" if labels else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
