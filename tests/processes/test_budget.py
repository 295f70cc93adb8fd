"""The budget of kills on a real cluster: blocked workers are warned of in the end, and an overload is no outage."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.processes.cluster import Cluster, until
from tests.processes.deeds import Talk, deeds, told
from tests.processes.load import Load

STALLS = ("--stall-warn", "0.2", "--stall-timeout", "0.6", "--boot-timeout", "5")


def block(cluster: Cluster, seconds: float) -> None:
    """Have whoever takes it block, and wait for no answer."""
    Talk(cluster).send(f"/block?{seconds}").sock.close()


def blocks(cluster: Cluster) -> list[str]:
    """What it has said of blocked event loops, while they were blocked."""
    return [event["message"] for event in told(cluster, "worker.stalled") if "is blocked" in event["message"]]


def kills(cluster: Cluster) -> list[str]:
    """What the watch has said when it had workers killed."""
    return [event["message"] for event in told(cluster, "worker.stalled") if "to be killed" in event["message"]]


def test_past_the_budget_blocked_workers_are_left_alone_and_the_app_is_degraded(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "3", "--max-restarts", "2", *STALLS) as cluster:
        before = {worker["pid"] for worker in cluster.workers()}
        for number in range(1, 5):
            block(cluster, 4)
            until(f"block {number}", lambda count=number: len(blocks(cluster)) == count)  # type: ignore[misc]
        until("degraded", lambda: cluster.app()["state"] == "degraded")
        (degraded,) = told(cluster, "app.degraded")
        assert "2 workers killed within 60 s" in degraded["message"]
        assert "max_restarts = 2" in degraded["why"]
        spared = [event for event in told(cluster, "log") if "not killed although" in event["message"]]
        assert spared
        assert spared[0]["level"] == "warning"
        assert "stall_timeout" in spared[0]["why"]
        until("everybody turns again", lambda: {worker["state"] for worker in cluster.workers()} == {"ready"})
        assert len(kills(cluster)) == 2
        assert before & {worker["pid"] for worker in cluster.workers()}, "somebody was left alone"
        assert cluster.app()["state"] == "degraded", "the budget of this minute stays used up"
        assert cluster.ctl("status").returncode == 0


def test_with_a_budget_of_zero_nobody_is_killed_and_the_app_recovers_when_nobody_would_have_to_be(
    tmp_path: Path,
) -> None:
    with deeds(tmp_path, "-w", "2", "--max-restarts", "0", *STALLS) as cluster:
        pids = {worker["pid"] for worker in cluster.workers()}
        block(cluster, 1.5)
        until("degraded", lambda: told(cluster, "app.degraded"))
        until("recovered", lambda: told(cluster, "app.recovered"))
        (degraded,), (recovered,) = told(cluster, "app.degraded"), told(cluster, "app.recovered")
        assert recovered["ts"] - degraded["ts"] > 9.0, "ten seconds without a refusal"
        assert {worker["pid"] for worker in cluster.workers()} == pids
        assert not kills(cluster)
        assert cluster.app()["state"] == "running"


def test_crashes_and_recycling_take_nothing_of_the_budget(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2", "--max-restarts", "1", "--max-requests", "40", *STALLS) as cluster:
        with Load(cluster.bind, connections=4):
            until("four recycled", lambda: len(told(cluster, "worker.recycled")) >= 4)
        os.kill(cluster.workers()[0]["pid"], 9)
        until("one crashed", lambda: cluster.app()["totals"]["restarts"] == 1)
        assert not told(cluster, "app.degraded")
        block(cluster, 3)
        until("one killed", lambda: len(kills(cluster)) == 1)
        assert not told(cluster, "app.degraded")


def test_an_overload_of_requests_that_block_leaves_the_service_up(tmp_path: Path) -> None:
    """Each answer takes the whole worker for as long as the watch allows: what is killed in a minute is bounded."""
    with deeds(tmp_path, "-w", "2", "--max-restarts", "3", "--queue-timeout", "0", *STALLS) as cluster:
        with Load(cluster.bind, connections=6, path="/block?0.8", echo=False, timeout_s=30.0) as load:
            until("degraded", lambda: told(cluster, "app.degraded"))
            until("those to be killed are gone", lambda: len(told(cluster, "worker.exited")) == 3)
            load.window()
            until("answers go on", lambda: load.snapshot().ok >= 5)
            window = load.window()
        assert window.ok > 0
        assert window.lost == 0, window
        assert len(kills(cluster)) <= 3
        assert json.loads(cluster.ctl("--json", "status").stdout)["apps"]["web"]["totals"]["restarts"] <= 3
