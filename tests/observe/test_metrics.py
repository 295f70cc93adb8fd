from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from supervisor.messages.status import AppStatus, Ledger, RollStatus, RollTotals, Status, Totals, WorkerStatus
from supervisor.observe import metrics

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def worker(**changed: Any) -> WorkerStatus:
    told: dict[str, Any] = {
        "slot": 1,
        "pid": 17,
        "generation": 3,
        "state": "ready",
        "uptime_s": 1.0,
        "inflight": 2,
        "connections": 5,
        "requests": 100,
        "lag_ms": 0.5,
        "lag_max_ms": 20.0,
        "rss_bytes": 50_000_000,
        "pss_bytes": 20_000_000,
        "cpu_percent": 12.5,
        "restarts": 1,
        "uss_bytes": 10_000_000,
    }
    return WorkerStatus(**(told | changed))


def app(*workers: WorkerStatus, **changed: Any) -> AppStatus:
    told: dict[str, Any] = {
        "state": "running",
        "generation": 3,
        "bind": ("127.0.0.1:8000",),
        "workers": workers,
        "totals": Totals(requests=2**53 - 1, shed=1, lost=2, restarts=3, stalls=4),
        "last_roll": None,
    }
    return AppStatus(**(told | changed))


def status(**apps: AppStatus) -> Status:
    return Status(version="0.1.0", pid=1, uptime_s=12.25, state="running", apps=apps)


def exposition(
    status: Status,
    ended: Mapping[str, Mapping[str, int]] | None = None,
    rolls: Mapping[str, RollTotals] | None = None,
) -> str:
    return "".join(metrics.exposition(status, ended or {}, rolls or {}))


def parsed(text: str) -> Series:
    """Every series once; prometheus_client's parser checks the format."""
    series: Series = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in series, f"twice: {key}"
            series[key] = sample.value
    return series


def value(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def test_the_instance_is_described() -> None:
    series = parsed(exposition(status()))
    assert value(series, "holdfast_up") == 1
    assert value(series, "holdfast_info", version="0.1.0") == 1
    assert value(series, "holdfast_uptime_seconds") == 12.25
    assert len(series) == 3


def test_an_apps_totals_are_counters() -> None:
    text = exposition(status(web=app(worker())))
    series = parsed(text)
    for name, expected in [("requests", 2**53 - 1), ("shed", 1), ("lost", 2), ("restarts", 3), ("stalls", 4)]:
        assert value(series, f"holdfast_{name}_total", app="web") == expected
        assert f"# TYPE holdfast_{name}_total counter\n" in text


def test_what_limits_have_ended_is_a_counter_by_kind() -> None:
    ended = {"web": {"max_body": 3, "head_timeout": 0}, "other": {"max_body": 1, "head_timeout": 2}}
    text = exposition(status(web=app(), other=app()), ended)
    series = parsed(text)
    assert "# TYPE holdfast_ended_total counter\n" in text
    for name, counts in ended.items():
        for kind, count in counts.items():
            assert value(series, "holdfast_ended_total", app=name, by=kind) == count


def test_every_state_is_counted_also_those_nobody_is_in() -> None:
    workers = [worker(slot=1), worker(slot=2), worker(slot=3, state="draining")]
    series = parsed(exposition(status(web=app(*workers))))
    counted = {dict(labels)["state"]: number for (name, labels), number in series.items() if name == "holdfast_workers"}
    assert counted == {
        "starting": 0,
        "ready": 2,
        "saturated": 0,
        "stalled": 0,
        "draining": 1,
        "backoff": 0,
        "stopped": 0,
    }


def test_a_workers_gauges_are_in_base_units() -> None:
    series = parsed(exposition(status(web=app(worker(slot=4)))))
    gauges = {
        name.removeprefix("holdfast_worker_"): number
        for (name, labels), number in series.items()
        if ("slot", "4") in labels
    }
    assert gauges == {
        "inflight": 2,
        "connections": 5,
        "lag_seconds": 0.0005,
        "lag_max_seconds": 0.02,
        "rss_bytes": 50_000_000,
        "pss_bytes": 20_000_000,
        "uss_bytes": 10_000_000,
        "cpu_ratio": 0.125,
    }


def test_a_slot_with_a_leaving_worker_beside_its_new_one_is_one_series() -> None:
    leaving = worker(state="draining", inflight=7, lag_ms=30.0, rss_bytes=1_000)
    series = parsed(exposition(status(web=app(worker(), leaving))))
    assert value(series, "holdfast_worker_inflight", app="web", slot="1") == 9
    assert value(series, "holdfast_worker_rss_bytes", app="web", slot="1") == 50_001_000
    assert value(series, "holdfast_worker_lag_seconds", app="web", slot="1") == 0.03


@pytest.mark.parametrize("verdict", ["committed", "rolled_back", "running"])
def test_the_last_rolls_verdict_is_one_of_three(verdict: Any) -> None:
    roll = RollStatus(from_=2, to=3, verdict=verdict, reason="", seconds=1.5)
    series = parsed(exposition(status(web=app(last_roll=roll), other=app())))
    verdicts = {
        dict(labels)["verdict"]: number for (name, labels), number in series.items() if name == "holdfast_last_roll"
    }
    assert verdicts == {"committed": 0, "rolled_back": 0, "running": 0} | {verdict: 1}
    assert value(series, "holdfast_last_roll_seconds", app="web") == 1.5


def test_an_apps_state_and_generation_are_told() -> None:
    series = parsed(exposition(status(web=app(state="degraded", generation=12))))
    assert value(series, "holdfast_app_state", app="web", state="degraded") == 1
    assert value(series, "holdfast_app_state", app="web", state="running") == 0
    assert value(series, "holdfast_generation", app="web") == 12


@given(name=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_survives_as_a_label(name: str) -> None:
    series = parsed(exposition(status(**{name: app(worker())})))
    assert value(series, "holdfast_generation", app=name) == 3


def test_the_text_ends_with_a_newline_and_families_are_not_torn() -> None:
    text = exposition(status(one=app(worker()), two=app(worker())))
    assert text.endswith("\n")
    names = [line.split("{")[0].split()[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(set(names)) == len([name for i, name in enumerate(names) if i == 0 or names[i - 1] != name])


def test_rolls_are_counted_by_verdict_and_their_connections_by_what_became_of_them() -> None:
    totals = RollTotals(committed=5, rolled_back=2, handed_over=70, drained=8, connections_cut=1)
    series = parsed(exposition(status(web=app()), rolls={"web": totals}))
    assert value(series, "holdfast_rolls_committed_total", app="web") == 5
    assert value(series, "holdfast_rolls_rolled_back_total", app="web") == 2
    assert value(series, "holdfast_connections_handed_over_total", app="web") == 70
    assert value(series, "holdfast_connections_drained_total", app="web") == 8
    assert value(series, "holdfast_connections_cut_total", app="web") == 1


def test_the_last_rolls_ledger_is_told_by_outcome() -> None:
    ledger = Ledger(accepted=10, completed=6, cut=1, reset=2, under_way=1)
    roll = RollStatus(from_=2, to=3, verdict="committed", reason="", seconds=1.5, ledger=ledger)
    series = parsed(exposition(status(web=app(last_roll=roll), other=app())))
    counted = {
        dict(labels)["outcome"]: number
        for (name, labels), number in series.items()
        if name == "holdfast_last_roll_requests"
    }
    assert counted == {"completed": 6, "cut": 1, "reset": 2, "under_way": 1}


def test_a_memory_limit_is_a_gauge_where_there_is_one() -> None:
    series = parsed(exposition(status(web=app(max_memory_bytes=2**30), other=app())))
    assert value(series, "holdfast_max_memory_bytes", app="web") == 2**30
    assert ("holdfast_max_memory_bytes", frozenset({("app", "other")})) not in series


def test_the_masters_own_lag_is_told_in_seconds() -> None:
    series = parsed("".join(metrics.master_lag(0.0025, own=0.001)))
    assert value(series, "holdfast_master_lag_max_seconds") == 0.0025
    assert value(series, "holdfast_master_turn_cpu_max_seconds") == 0.001


def test_lost_crash_reports_are_counted() -> None:
    assert value(parsed(metrics.crash_reports(3)), "holdfast_crash_reports_lost_total") == 3
