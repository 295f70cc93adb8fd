"""Workers and spawners that die, once or again and again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from supervisor.fleet.backoff import FIRST_DELAY, JITTER
from tests.processes.cluster import Cluster, until
from tests.processes.deeds import Talk, ask, deeds, kill_spawner, order, ready, spawners, told
from tests.processes.load import Load

DEATHS = {
    "by SIGKILL": (f"/signal?{signal.SIGKILL:d}", "killed by SIGKILL, sent by neither holdfast nor the OOM killer"),
    "by SIGSEGV": (f"/signal?{signal.SIGSEGV:d}", "killed by SIGSEGV"),
    "by SIGABRT": (f"/signal?{signal.SIGABRT:d}", "killed by SIGABRT"),
    "by SIGTERM": (f"/signal?{signal.SIGTERM:d}", "exit code 0"),
    "with exit code 0": ("/exit?0", "exit code 0"),
    "with exit code 1": ("/exit?1", "exit code 1"),
    "with exit code 255": ("/exit?255", "exit code 255"),
    "by sys.exit out of the loop": ("/sys-exit?3", "its event loop ended: SystemExit: 3"),
    "by sys.exit(0) out of the loop": ("/sys-exit?0", "its event loop ended: SystemExit: 0"),
    "by an exception out of the loop": ("/interrupt", "its event loop ended: KeyboardInterrupt"),
}


def serve_again(cluster: Cluster, count: int) -> None:
    until(f"{count} ready workers", lambda: ready(cluster, count))


def gone(cluster: Cluster, pid: int) -> None:
    until("the death seen", lambda: pid not in {worker["pid"] for worker in cluster.workers()})


def another_spawner(cluster: Cluster, dead: int) -> None:
    until("another spawner", lambda: (found := spawners(cluster)) and found != [dead])


def deaths(cluster: Cluster) -> list[float]:
    """The pause before the next attempt, as each death was told with."""
    return [event["retry_in"] for event in told(cluster, "worker.exited") if "retry_in" in event]


@pytest.mark.parametrize(("path", "reason"), DEATHS.values(), ids=DEATHS.keys())
def test_a_worker_that_dies_is_replaced_at_once(tmp_path: Path, path: str, reason: str) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        before = {worker["pid"] for worker in cluster.workers()}
        order(cluster, path)
        until("the death told", lambda: told(cluster, "worker.exited"))
        serve_again(cluster, 2)
        (death,) = told(cluster, "worker.exited")
        assert death["reason"] == reason
        assert death["message"].endswith("replaced at once")
        assert death["retry_in"] == 0
        after = {worker["pid"]: worker for worker in cluster.workers()}
        assert before - after.keys() == {death["pid"]}
        (fresh,) = after.keys() - before
        assert after[fresh]["slot"] == death["slot"]
        assert after[fresh]["restarts"] == cluster.app()["totals"]["restarts"] == 1
        assert [event["pid"] for event in told(cluster, "worker.ready")][-1] == fresh
        assert cluster.zombies() == []


def test_with_preload_a_replacement_is_ready_within_100_ms(tmp_path: Path) -> None:
    seconds = []
    with deeds(tmp_path, "-w", "5", "--preload", "on", env={"IMPORT_SECONDS": "0.5"}) as cluster:
        for worker in cluster.workers():
            killed_at = time.time()
            os.kill(worker["pid"], signal.SIGKILL)
            gone(cluster, worker["pid"])
            serve_again(cluster, 5)
            seconds.append(told(cluster, "worker.ready")[-1]["ts"] - killed_at)
    assert min(seconds) < 0.1, seconds
    assert sorted(seconds)[2] < 0.3, seconds  # an import would take 0.5 s; the machine may be busy


def test_a_worker_that_keeps_dying_is_retried_with_growing_jittered_delays_while_the_others_serve(
    tmp_path: Path,
) -> None:
    with deeds(tmp_path, "-w", "3") as cluster, Load(cluster.bind, connections=8) as load:
        (tmp_path / "broken").touch()
        os.kill(cluster.workers()[0]["pid"], signal.SIGKILL)
        until("the first death", lambda: deaths(cluster))
        lost = 0  # the dead one's own requests are lost with it

        def nothing_is_lost() -> bool:
            nonlocal lost
            window = load.window()
            lost += window.lost
            return window.ok > 0 and window.lost == 0

        until("only answers", nothing_is_lost)
        until("five deaths in a row", lambda: len(deaths(cluster)) >= 5)
        pauses = deaths(cluster)
        assert cluster.app()["state"] == "degraded"
        window = load.window()
        assert window.ok > 0
        assert window.lost == 0, window
        assert pauses[0] == 0
        nominal = [FIRST_DELAY * 2**number for number in range(4)]
        assert all(abs(pause / due - 1) <= JITTER for pause, due in zip(pauses[1:5], nominal, strict=True)), pauses
        assert any(abs(pause / due - 1) > 0.001 for pause, due in zip(pauses[1:5], nominal, strict=True)), pauses
        (tmp_path / "broken").unlink()
        serve_again(cluster, 3)
        until("the recovery told", lambda: told(cluster, "app.recovered"))
        assert len(told(cluster, "app.degraded")) == 1
        report = load.stop()
        assert report.lost == lost, report


def test_an_app_all_of_whose_workers_keep_dying_is_failed_and_gets_well_by_itself(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        (tmp_path / "broken").touch()
        for worker in cluster.workers():
            os.kill(worker["pid"], signal.SIGKILL)
        until("the app failed", lambda: cluster.app()["state"] == "failed")
        until("the failure told", lambda: told(cluster, "app.failed"))
        assert "app.failed" in cluster.log
        shown = cluster.ctl("status", "web")
        assert "failed" in shown.stdout
        assert shown.returncode == 3
        with Talk(cluster, timeout=60) as waiting:  # it keeps its listening socket: who comes waits in the queue
            waiting.send("/print?at-last")
            attempts = len(deaths(cluster))
            until("another attempt", lambda: len(deaths(cluster)) > attempts)
            (tmp_path / "broken").unlink()
            assert waiting.answer()[0] == 200
        serve_again(cluster, 2)
        until("the app running", lambda: cluster.app()["state"] == "running")
        until("the recovery told", lambda: told(cluster, "app.recovered"))
        assert cluster.exit_code is None


def test_a_dead_spawner_is_replaced_without_a_word_to_the_workers_it_made(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster, Load(cluster.bind, connections=8) as load:
        before = {worker["pid"] for worker in cluster.workers()}
        dead = kill_spawner(cluster)
        another_spawner(cluster, dead)
        assert {worker["pid"] for worker in cluster.workers()} == before
        report = load.stop()
        assert report.lost == 0, report
        assert set(map(int, report.pids)) <= before
        assert not told(cluster, "worker.exited")
        assert "killed by SIGKILL; a new spawner is started at once, the workers serve on" in cluster.log
        os.kill(min(before), signal.SIGKILL)
        until("the death told", lambda: told(cluster, "worker.exited"))
        serve_again(cluster, 2)


def test_a_spawner_that_keeps_dying_is_started_again_with_growing_delays(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        for _ in range(3):
            dead = kill_spawner(cluster)
            another_spawner(cluster, dead)
        pauses = [event["retry_in"] for event in told(cluster, "log") if "retry_in" in event]
        assert pauses[0] == 0
        assert 0 < pauses[1] < pauses[2]
        assert ready(cluster, 1)


@pytest.mark.parametrize("end", ["killed while it is stopped", "stopped for good"])
def test_a_fork_that_a_hanging_spawner_never_made_is_made_by_the_next_one(tmp_path: Path, end: str) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        spawner = kill_spawner(cluster, signal.SIGSTOP)
        os.kill(cluster.workers()[0]["pid"], signal.SIGKILL)
        until("the slot waiting", lambda: [worker["pid"] for worker in cluster.app()["workers"]].count(0) == 1)
        ask(cluster, "/print?served-meanwhile")
        if end == "killed while it is stopped":
            os.kill(spawner, signal.SIGKILL)
        serve_again(cluster, 2)
        assert spawner not in spawners(cluster)
        assert cluster.zombies() == []
        assert cluster.stop() == 0
        assert cluster.leftovers() == {}


@pytest.mark.parametrize("victim", ["kill-spawner", "kill-between"])
def test_a_worker_whose_pid_nobody_lived_to_tell_is_found_and_supervised(tmp_path: Path, victim: str) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        (tmp_path / victim).touch()
        os.kill(cluster.workers()[0]["pid"], signal.SIGKILL)
        until("the victim killed", lambda: not (tmp_path / victim).exists())
        serve_again(cluster, 1)
        (found,) = cluster.workers()
        assert int(ask(cluster, "/print?it-is-the-one")) == found["pid"]
        assert [title for title in cluster.processes().values() if " w1 " in title] == ["holdfast: web g1 w1 ready"]
        os.kill(found["pid"], signal.SIGSEGV)
        until("its death told", lambda: told(cluster, "worker.exited")[-1]["pid"] == found["pid"])
        serve_again(cluster, 1)
        assert cluster.zombies() == []
        assert cluster.stop() == 0
        assert cluster.leftovers() == {}


def test_stray_signals_for_the_master_end_neither_worker_nor_spawner(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        others = [pid for pid in cluster.processes() if pid != cluster.pid]
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
            for pid in others:
                os.kill(pid, number)
            ask(cluster, "/print?still-here")
        assert sorted(cluster.processes()) == sorted([cluster.pid, *others])
