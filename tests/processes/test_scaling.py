"""A range of workers on a real cluster: more under load, fewer without, nothing lost on the way, hands off by hand."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.processes.cluster import Cluster, until
from tests.processes.deeds import deeds
from tests.processes.load import Load
from tests.processes.releases import Site, web_settings

PACE = ("--grow-after", "1", "--shrink-after", "2")
SLOW = {"ANSWER_SECONDS": "0.05"}


def cluster_of(folder: Path, workers: str, *arguments: str) -> Cluster:
    """Workers with room for four requests each, that take 50 ms."""
    few = ("--max-inflight", "4", "--queue-timeout", "5", "--log-format", "json")
    return deeds(folder, "-w", workers, *PACE, *few, *arguments, env=SLOW)


def told(cluster: Cluster, name: str = "app.scaled") -> list[dict[str, Any]]:
    """The events of this name, in order."""
    lines = [json.loads(line) for line in cluster.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def steps(cluster: Cluster) -> list[tuple[int, int]]:
    return [(event["from"], event["to"]) for event in told(cluster)]


def serves(cluster: Cluster, count: int) -> bool:
    """So many workers, all ready or full, and no other but those that leave."""
    states = [worker["state"] for worker in cluster.workers()]
    return len(states) == count and set(states) <= {"ready", "saturated"}


def test_busy_workers_become_more_one_by_one_and_idle_ones_fewer_and_no_request_is_lost(tmp_path: Path) -> None:
    with (
        cluster_of(tmp_path, "1..3") as cluster,
        Load(cluster.bind, connections=4, fresh=0, pause_s=0.4, all_rest=True) as few,
    ):
        with Load(cluster.bind, connections=24, fresh=0.5) as many:
            until("three workers", lambda: serves(cluster, 3))
            until("work for all of them", lambda: len(many.window().pids) == 3)
        busy = many.stop()
        until("one worker", lambda: serves(cluster, 1))
        idle = few.stop()
        assert steps(cluster) == [(1, 2), (2, 3), (3, 2), (2, 1)]
        assert (busy.lost, idle.lost) == (0, 0), (busy, idle)
        assert idle.closed_politely == idle.closed_idle == 0, "connections of those who left were handed over"
        grown, _, shrunk, _ = told(cluster)
        assert grown["why"].startswith("busy for ")
        assert "of 4 requests in flight" in grown["why"]
        assert [worker["slot"] for worker in grown["workers"]] == [1]
        assert shrunk["why"].startswith("idle for ")
        assert cluster.app()["totals"]["restarts"] == 0


def test_an_event_loop_that_is_late_all_the_time_is_a_reason_with_room_for_many_requests(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "1..2") as cluster:
        with Load(cluster.bind, connections=1, path="/block?0.3", echo=False):
            until("another worker", lambda: serves(cluster, 2))
        assert "ms late" in told(cluster)[0]["why"]


def test_what_is_set_by_hand_stays_until_the_automatic_is_asked_for(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "1..3") as cluster, Load(cluster.bind, connections=24):
        assert cluster.ctl("scale", "web", "2").returncode == 0
        cluster.kill(signal.SIGTTOU)
        until("one worker", lambda: serves(cluster, 1))
        assert [event["why"] for event in told(cluster)] == ["by hand", "SIGTTOU"]
        until("time enough to grow", lambda: cluster.workers()[0]["uptime_s"] > 6)
        assert serves(cluster, 1)
        assert cluster.ctl("scale", "web", "5").returncode == 0
        until("five workers", lambda: serves(cluster, 5))
        back = cluster.ctl("--json", "scale", "web", "auto")
        assert json.loads(back.stdout) == {"app": "web", "workers": 3}
        until("three workers", lambda: serves(cluster, 3))


def test_an_app_that_is_started_anew_begins_with_the_least_and_scales_by_itself_again(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "1..2") as cluster:
        assert cluster.ctl("scale", "web", "4").returncode == 0
        assert cluster.ctl("restart", "web").returncode == 0
        assert serves(cluster, 1)
        with Load(cluster.bind, connections=24):
            until("another worker", lambda: serves(cluster, 2))
        assert steps(cluster) == [(1, 4), (1, 2)]


def test_without_a_range_there_is_no_automatic(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        refused = cluster.ctl("scale", "web", "auto")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert 'workers = "2..8"' in refused.stderr


def test_no_decision_falls_into_a_roll(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "1..3", "--bake", "3") as cluster, Load(cluster.bind, connections=24) as load:
        until("a first decision", lambda: steps(cluster))
        assert cluster.roll()["verdict"] == "committed"
        until("three workers", lambda: serves(cluster, 3))
        (began,), (ended,) = told(cluster, "roll.started"), told(cluster, "roll.committed")
        assert not [event for event in told(cluster) if began["ts"] < event["ts"] < ended["ts"]]
        assert load.stop().lost == 0


def test_a_roll_with_another_range_keeps_as_many_workers_as_that_allows(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(web_settings(workers="2..6")) as cluster:
        assert cluster.ctl("scale", "web", "4").returncode == 0
        until("four workers", lambda: serves(cluster, 4))
        for workers, count in (("3..8", 4), ("1..3", 3), ("5..6", 5)):
            site.settings(web_settings(cluster.bind, workers=workers))
            assert cluster.roll()["verdict"] == "committed"
            until(f"{count} workers", lambda: serves(cluster, count))  # noqa: B023  # asked at once


def test_a_worker_that_dies_is_replaced_and_not_scaled_for(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "2..4") as cluster:
        os.kill(cluster.workers()[0]["pid"], signal.SIGKILL)
        until("its successor", lambda: cluster.app()["totals"]["restarts"] == 1 and serves(cluster, 2))
        until("time enough to grow", lambda: cluster.workers()[1]["uptime_s"] > 3)
        assert steps(cluster) == []
