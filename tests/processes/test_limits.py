"""Workers that use themselves up, and what is sampled of all of them."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from supervisor.kernel.capacity import available_memory
from tests.processes.cluster import Cluster, until
from tests.processes.deeds import Talk, ask, deeds, ready, told
from tests.processes.load import Load

MB = 2**20


def recyclings(cluster: Cluster) -> list[dict[str, Any]]:
    return told(cluster, "worker.recycled")


def assert_new_one_first_and_never_two_at_once(cluster: Cluster, workers: int) -> None:
    """By the order in which things were told: when one was to go all were ready, and it left after its heir was."""
    serving: dict[int, int] = {}
    replaced: dict[str, Any] | None = None
    for event in told(cluster):
        name, slot, pid = event["event"], event.get("slot"), event.get("pid")
        if name == "worker.ready":
            assert isinstance(slot, int)
            assert isinstance(pid, int)
            if replaced is not None:
                assert (slot, serving[slot]) == (replaced["slot"], replaced["pid"])
                replaced = None
            serving[slot] = pid
        elif name == "worker.recycled":
            assert replaced is None, "a second one while the first is being replaced"
            assert len(serving) == workers
            replaced = event
        elif name == "worker.exited":
            assert event["level"] == "info", event  # drained, nothing lost
            assert pid not in serving.values(), "gone before its heir was ready"


def grow_every_worker(cluster: Cluster, workers: int) -> set[int]:
    """Each takes 100 MB more, within less than the second that lies between two samples; their pids."""
    talks: dict[int, Talk] = {}
    with contextlib.ExitStack() as opened:
        while len(talks) < workers:
            talk = opened.enter_context(Talk(cluster))
            talks.setdefault(int(talk.send("/pid").answer()[2]), talk)
        for talk in talks.values():
            talk.send("/grow?100")
        return {int(talk.answer()[2]) for talk in talks.values()}


def test_lag_and_memory_of_every_worker_are_sampled_and_shown(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        for worker in cluster.workers():
            assert 5 * MB < worker["rss_bytes"] < 200 * MB
            assert 0 < worker["uss_bytes"] < worker["pss_bytes"] <= worker["rss_bytes"]
            assert worker["pss_bytes"] > 1 * MB
            assert 0 <= worker["lag_ms"] <= worker["lag_max_ms"]
            assert worker["cpu_percent"] >= 0
        pid = int(ask(cluster, "/grow?64"))
        until("the memory seen", lambda: {w["pid"]: w for w in cluster.workers()}[pid]["rss_bytes"] > 64 * MB)
        pid = int(ask(cluster, "/block?0.4"))
        until("the lag seen", lambda: {w["pid"]: w for w in cluster.workers()}[pid]["lag_max_ms"] > 250)
        until("the lag gone", lambda: {w["pid"]: w for w in cluster.workers()}[pid]["lag_ms"] < 100)
        table = cluster.ctl("status").stdout
        assert re.search(r"\bLAG\b.*\bRSS\b", table)
        assert re.search(r" [234]\d\d\.\d ms ", table)


def test_a_busy_worker_s_cpu_is_shown(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        with Load(cluster.bind, connections=8):
            until("the CPU seen", lambda: cluster.workers()[0]["cpu_percent"] > 5)
        until("the CPU idle", lambda: cluster.workers()[0]["cpu_percent"] < 5)


def test_a_worker_past_max_memory_is_replaced_new_one_ready_first(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2", "--max-memory", "96M") as cluster:
        with Load(cluster.bind, connections=8) as load:
            pid = int(ask(cluster, "/grow?100"))
            until("it was replaced", lambda: pid not in {worker["pid"] for worker in cluster.app()["workers"]})
            report = load.stop()
        assert report.lost == 0, report
        (recycling,) = recyclings(cluster)
        assert recycling["pid"] == pid
        assert re.fullmatch(r"memory: \d+ MB is past max_memory 96 MB", recycling["why"])
        assert ready(cluster, 2)
        assert cluster.app()["totals"]["restarts"] == 0  # nobody has died
        assert_new_one_first_and_never_two_at_once(cluster, 2)


def test_max_memory_may_be_a_share_and_is_divided_anew_when_workers_come_and_go(tmp_path: Path) -> None:
    available = available_memory()
    share = 100 * 2 * 96 * MB / available
    with deeds(tmp_path, "-w", "2", "--max-memory", f"{share:.6f}%") as cluster:
        assert abs(cluster.app()["max_memory_bytes"] - 96 * MB) < MB
        assert "max 96M a worker" in cluster.ctl("status").stdout
        pid = int(ask(cluster, "/grow?100"))
        until("it was replaced", lambda: pid not in {worker["pid"] for worker in cluster.app()["workers"]})
        (recycling,) = recyclings(cluster)
        assert re.fullmatch(r"memory: \d+ MB is past max_memory 96 MB", recycling["why"])
        assert_new_one_first_and_never_two_at_once(cluster, 2)
        assert cluster.ctl("scale", "web", "1").returncode == 0
        until("the whole for one", lambda: abs(cluster.app()["max_memory_bytes"] - 192 * MB) < MB)


def test_a_worker_that_is_old_enough_is_replaced_new_one_first(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2", "--max-age", "1") as cluster:
        until("three recyclings", lambda: len(recyclings(cluster)) >= 3)
        found = [re.fullmatch(r"age: \d+ s, its limit was 1 s", event["why"]) for event in recyclings(cluster)]
        assert all(found)
        assert_new_one_first_and_never_two_at_once(cluster, 2)


def test_all_past_max_memory_at_once_are_replaced_one_after_the_other(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "3", "--max-memory", "96M") as cluster:
        grown = grow_every_worker(cluster, 3)
        until("all replaced", lambda: ready(cluster, 3) and not grown & {w["pid"] for w in cluster.app()["workers"]})
        assert {event["pid"] for event in recyclings(cluster)} == grown
        assert_new_one_first_and_never_two_at_once(cluster, 3)


def test_a_worker_past_max_requests_is_replaced_new_one_ready_first_and_no_request_is_lost(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "3", "--max-requests", "100") as cluster:
        with Load(cluster.bind, connections=16) as load:
            until("six recyclings", lambda: len(recyclings(cluster)) >= 6)
            report = load.stop()
        assert report.lost == 0, report
        until("all ready, nobody leaving", lambda: ready(cluster, 3) and len(cluster.app()["workers"]) == 3)
        assert {event["slot"] for event in recyclings(cluster)} == {1, 2, 3}
        assert_new_one_first_and_never_two_at_once(cluster, 3)
        totals = cluster.app()["totals"]
        assert totals["lost"] == totals["restarts"] == 0
        assert totals["requests"] == report.requests


def test_max_requests_has_a_jitter_of_a_tenth_so_that_workers_do_not_reach_it_together(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "3", "--max-requests", "100") as cluster:
        with Load(cluster.bind, connections=16):
            until("six recyclings", lambda: len(recyclings(cluster)) >= 6)
        found = [re.fullmatch(r"requests: (\d+) served, its limit was (\d+)", e["why"]) for e in recyclings(cluster)]
        limits = [int(match[2]) for match in found if match]
        assert len(limits) == len(found)
        assert all(90 <= limit <= 110 for limit in limits)
        assert len(set(limits)) > 1


def test_a_replacement_that_cannot_start_leaves_the_used_up_worker_in_its_place(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1", "--max-requests", "5") as cluster:
        (tmp_path / "broken").touch()
        pids = {ask(cluster, "/print?one-more") for _ in range(8)}
        until("three attempts", lambda: len(told(cluster, "worker.exited")) >= 3)
        assert {ask(cluster, "/print?still-here")} == pids
        assert cluster.app()["state"] == "running"
        (tmp_path / "broken").unlink()
        until("it was replaced", lambda: ready(cluster, 1) and str(cluster.workers()[0]["pid"]) not in pids)
