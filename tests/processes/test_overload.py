"""More than a worker can serve: a blocked one keeps nobody waiting but those it had already taken, and a crowd costs
nobody the answers that there is time for."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.load import Load
from tests.processes.web import Visitor, ask

pytestmark = pytest.mark.alone

APP = Path(__file__).with_name("overload_app.py")
IMPATIENT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "impatient_load.py"
BLOCKED_S = 4.0


class Seen(TypedDict):
    """What the impatient clients report."""

    ok_per_s: float
    shed_per_s: float
    late_per_s: float
    p99_s: float


def cluster_of(folder: Path, app: str, *arguments: str) -> Cluster:
    shutil.copy(APP, folder / "app.py")
    return Cluster(folder, f"app:{app}", *arguments)


def block(cluster: Cluster, seconds: float) -> threading.Thread:
    """Have whichever worker takes it block its event loop for so long."""
    thread = threading.Thread(target=ask, args=(cluster.bind, f"/block?{seconds}"))
    thread.start()
    return thread


def test_while_a_worker_is_blocked_new_connections_are_answered_as_before(tmp_path: Path) -> None:
    cluster = cluster_of(tmp_path, "asgi", "-w", "4")
    with cluster, Load(cluster.bind, connections=4, fresh=1.0, posts=0.0) as load:
        time.sleep(2.0)
        before = load.window()
        blocked = block(cluster, BLOCKED_S)
        time.sleep(BLOCKED_S - 0.2)
        during = load.window()
        blocked.join()
        report = load.stop()
    assert report.lost == 0, report
    assert during.requests > 400, "too few to speak of a percentile"
    assert during.p99_s < 3 * before.p99_s + 0.02, (before, during)
    assert during.longest_gap_s < 1.0
    assert min(during.pids.values()) < during.requests / 20 or len(during.pids) == 3, "nobody was blocked"


def test_a_worker_that_was_blocked_says_so_and_recovers_by_itself(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "asgi", "-w", "2") as cluster:
        block(cluster, 1.0).join()
        until("it tells", lambda: "takes no new connections: its event loop was" in cluster.log)
        assert "lag_limit is 0.25 s; the other workers do" in cluster.log
        until("it recovers", lambda: "its event loop keeps time again" in cluster.log)
        assert {worker["state"] for worker in cluster.workers()} == {"ready"}


def test_when_every_worker_lags_connections_are_taken_all_the_same(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "asgi", "-w", "2") as cluster:
        for _ in range(3):  # pauses grow, and yet nobody waits for their end
            began = time.monotonic()
            visitors = [block(cluster, 0.5) for _ in range(6)]
            for visitor in visitors:
                visitor.join()
            assert time.monotonic() - began < 6 * 0.5 + 3.0
        until("both tell", lambda: cluster.log.count("takes no new connections: its event loop was") >= 2)


def test_an_inline_wsgi_app_may_block_its_loop(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "wsgi", "-w", "1", "--threads", "1") as cluster:
        for _ in range(3):
            assert ask(cluster.bind, "/block?0.5").status == 200
            began = time.monotonic()
            assert ask(cluster.bind, "/").status == 200
            assert time.monotonic() - began < 0.2
        assert "takes no new connections" not in cluster.log


def test_a_kept_alive_connection_of_a_lagging_worker_is_served_on(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "asgi", "-w", "2") as cluster:
        visitor = Visitor(cluster.bind)
        assert visitor.ask("/block?0.6").status == 200
        assert visitor.ask("/?still").text == "still"
        visitor.close()


def impatient(cluster: Cluster, clients: int, path: str) -> Seen:
    """What so many clients see who give up after a second and ask again at once."""
    port = cluster.bind.rpartition(":")[2]
    command = [sys.executable, str(IMPATIENT), port, path, str(clients), "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    seen: Seen = json.loads(done.stdout)
    return seen


def stays_at_its_peak(cluster: Cluster, few: int, many: int) -> Seen:
    """With many clients as many answers come in time as with the few that take all there is, whom it returns."""
    peak = impatient(cluster, few, "/block?0.01")
    crowd = impatient(cluster, many, "/block?0.01")
    assert crowd["ok_per_s"] > 0.8 * peak["ok_per_s"], (peak, crowd)
    assert crowd["p99_s"] < 1.0
    assert ask(cluster.bind, "/health").status == 200
    totals = cluster.app()["totals"]
    assert totals["shed"] > 0
    assert totals["lost"] == 0
    return peak


def test_at_ten_times_the_peak_s_clients_the_answers_in_time_stay_as_many(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "asgi", "-w", "2", "--exempt-paths", "/health") as cluster:
        peak = stays_at_its_peak(cluster, 32, 320)
        assert peak["ok_per_s"] > 20
        until("it is told", lambda: "turned away with 503 in" in cluster.log)


def test_wsgi_requests_are_turned_away_when_all_threads_are_held_for_too_long(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "wsgi", "-w", "2", "--threads", "4") as cluster:
        crowd = impatient(cluster, 100, "/sleep?0.2")
        assert crowd["ok_per_s"] > 0.8 * 2 * 4 / 0.2, crowd
        assert cluster.app()["totals"]["shed"] > 0


def test_inline_wsgi_requests_are_turned_away_when_the_event_loop_has_no_time_for_them(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "wsgi", "-w", "1", "--threads", "1", "--exempt-paths", "/health") as cluster:
        stays_at_its_peak(cluster, 16, 300)
        assert ask(cluster.bind, "/?after").text == "after"


def shares(cluster: Cluster) -> list[int]:
    return [worker["connections"] for worker in cluster.workers()]


def is_even(cluster: Cluster, connections: int) -> bool:
    """Nobody has more than a quarter above the mean; clients come and go for a moment where one is handed over."""
    found = shares(cluster)
    return abs(sum(found) - connections) <= 2 and max(found) <= 1.25 * connections / len(found)


def test_a_burst_of_connections_is_evened_out_and_so_it_is_after_a_roll(tmp_path: Path) -> None:
    cluster = cluster_of(tmp_path, "asgi", "-w", "4")
    with cluster, Load(cluster.bind, connections=64, fresh=0.0, posts=0.0, pause_s=0.02, all_rest=True) as load:
        until("all connected", lambda: load.snapshot().connects == 64)
        until("it is even", lambda: is_even(cluster, 64), deadline=1.0)
        assert cluster.roll()["verdict"] == "committed"
        until("it is even again", lambda: is_even(cluster, 64), deadline=1.0)
        report = load.stop()
    assert report.lost == 0, report
    assert report.reconnects == 0, report


@pytest.mark.parametrize(("app", "room"), [("asgi", "--max-inflight"), ("wsgi", "--threads")], ids=["asgi", "wsgi"])
@pytest.mark.parametrize("is_full_for", [0.0, 1.0], ids=["at once", "after a second"])
def test_who_speaks_up_at_a_full_worker_is_answered_by_one_with_room(
    tmp_path: Path, app: str, room: str, is_full_for: float
) -> None:
    with (
        cluster_of(tmp_path, app, "-w", "2", room, "3") as cluster,
        contextlib.ExitStack() as stack,
        ThreadPoolExecutor(32) as crowd,
    ):
        visitors = [stack.enter_context(contextlib.closing(Visitor(cluster.bind))) for _ in range(24)]
        served = [visitor.ask("/").headers["x-pid"] for visitor in visitors]
        until("both have some", lambda: min(shares(cluster)) >= 8)
        served = [visitor.ask("/").headers["x-pid"] for visitor in visitors]
        here = [visitor for visitor, pid in zip(visitors, served, strict=True) if pid == served[0]]
        full = [crowd.submit(visitor.ask, "/sleep?4") for visitor in here[:3]]
        until("it is full", lambda: 3 in [worker["inflight"] for worker in cluster.workers()])
        time.sleep(is_full_for)
        began = time.monotonic()
        answers = list(crowd.map(lambda visitor: visitor.ask("/?moved"), here[3:]))
        assert time.monotonic() - began < 0.9
        assert {(answer.status, answer.text) for answer in answers} == {(200, "moved")}
        assert served[0] not in {answer.headers["x-pid"] for answer in answers}
        assert all(answer.result().headers["x-pid"] == served[0] for answer in full)
        until("the board is right", lambda: [worker["inflight"] for worker in cluster.workers()] == [0, 0])
        totals = cluster.app()["totals"]
        assert (totals["shed"], totals["lost"]) == (0, 0)


def test_idle_connections_leave_a_worker_that_lags(tmp_path: Path) -> None:
    with cluster_of(tmp_path, "asgi", "-w", "2") as cluster:
        visitors = [Visitor(cluster.bind) for _ in range(12)]
        for visitor in visitors:
            assert visitor.ask("/?here").text == "here"
        lagging = visitors[0].ask("/").headers["x-pid"]

        def others() -> set[str]:
            """Who has the other clients' connections, while the first keeps its worker lagging."""
            assert visitors[0].ask("/block?0.4").status == 200
            return {visitor.ask("/").headers["x-pid"] for visitor in visitors[1:]}

        until("they are all with the other one", lambda: lagging not in others())
        for visitor in visitors:
            visitor.close()
