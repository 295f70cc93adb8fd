"""kill -9 of the master: its workers serve on, and the next master takes them over."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes.cluster import Cluster, free_port, until
from tests.processes.deeds import HERE, Talk, ask, deeds, files, kill_spawner, order, ready, spawners
from tests.processes.load import Load
from tests.processes.web import ask as ask_at

GONE = re.compile(r"web:(\d) +\d+ log +the master \(pid \d+\) is gone: this worker serves on")


def kill_master(cluster: Cluster) -> None:
    """And be sure that it is no more."""
    cluster.kill(signal.SIGKILL)
    cluster.wait_exit()


def pids(cluster: Cluster) -> list[int]:
    return [worker["pid"] for worker in cluster.workers()]


def adopted(cluster: Cluster) -> dict[str, Any]:
    """The event of the adoption, when it has come."""
    lines = cluster.ctl("--json", "events").stdout.splitlines()
    found = [json.loads(line) for line in lines if "master.adopted" in line]
    assert len(found) == 1, lines
    event: dict[str, Any] = found[0]
    return event


def test_under_load_a_kill_and_a_new_start_lose_nothing_and_again_and_all_is_supervised(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        with Load(cluster.bind, connections=16) as load:
            for generation in (1, 2):
                workers, killed = pids(cluster), cluster.pid
                kill_master(cluster)
                until("they have noticed", lambda: cluster.log.count(f"(pid {killed}) is gone") == 2)  # noqa: B023
                cluster.start().wait_ready()
                event = adopted(cluster)
                assert event["predecessor"] == killed
                assert set(workers) <= set(event["workers"])  # and who was still leaving
                assert pids(cluster) == workers
                assert cluster.app()["generation"] == generation
                assert cluster.roll()["verdict"] == "committed"
            assert cluster.ctl("scale", "web", "3").returncode == 0
            until("three", lambda: ready(cluster, 3))
            report = load.stop()
        assert report.lost == 0, report
        assert report.reconnects == 0 or report.closed_politely + report.closed_idle >= report.reconnects
        assert cluster.app()["totals"]["requests"] >= report.requests
        assert cluster.stop() == 0
        assert cluster.leftovers() == {}
        assert list(files(tmp_path)) == []


def test_an_adopted_worker_that_dies_is_replaced_and_nothing_is_made_up_of_how(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        kill_master(cluster)
        cluster.start().wait_ready()
        victim = pids(cluster)[0]
        os.kill(victim, signal.SIGSEGV)
        until("a new one", lambda: victim not in pids(cluster) and ready(cluster, 2))
        assert re.search(rf"{victim} worker.exited +exit status unknown: adopted after", cluster.log)
        assert cluster.app()["totals"]["restarts"] == 1
        cluster.roll()
        child = pids(cluster)[0]
        os.kill(child, signal.SIGKILL)
        until("its end", lambda: re.search(rf"{child} worker.exited +killed by SIGKILL", cluster.log))


def test_connections_counters_and_what_was_set_by_hand_go_on(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "3") as cluster, Talk(cluster) as talk:
        talk.send("/print?one").answer()
        assert cluster.ctl("stop", "web:2").returncode == 0
        before = cluster.app()
        kill_master(cluster)
        assert talk.send("/print?two").answer()[0] == 200
        cluster.start()
        until("adopted", cluster.status)
        assert talk.send("/print?three").answer()[0] == 200
        after = cluster.app()
        assert [worker["state"] for worker in after["workers"]] == ["ready", "stopped", "ready"]
        assert [worker["pid"] for worker in after["workers"]] == [worker["pid"] for worker in before["workers"]]
        assert after["totals"]["requests"] == before["totals"]["requests"] + 2
        until("all that was printed", lambda: all(word in cluster.output for word in ("one", "two", "three")))
        assert len(spawners(cluster)) == 1


def test_each_worker_says_so_once_and_a_master_that_is_only_stopped_is_no_reason(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2", "--orphan-grace", "3") as cluster:
        cluster.kill(signal.SIGSTOP)
        time.sleep(4.0)  # longer than the grace: nobody may have noticed anything by then
        ask(cluster, "/print?still")
        cluster.kill(signal.SIGCONT)
        until("it answers", cluster.status)
        assert "is gone" not in cluster.log
        workers = pids(cluster)
        kill_master(cluster)
        cluster.start().wait_ready()
        assert pids(cluster) == workers
        assert sorted(GONE.findall(cluster.log)) == ["1", "2"]


def test_with_no_master_to_come_all_drain_and_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with deeds(tmp_path, "-w", "2", "--orphan-grace", "1", bind=f"unix:{path}") as cluster:
        assert stat.S_ISSOCK(path.stat().st_mode)
        kill_master(cluster)
        assert ask_at(cluster.bind, "/print?orphans").status == 200
        until("nobody left", lambda: cluster.processes() == {}, 10.0)
        assert cluster.log.count("none has come in 1 s; this worker finishes what it has and leaves") == 2
        assert list(files(tmp_path)) == []


def test_a_master_that_comes_when_they_are_leaving_starts_anew(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2", "--orphan-grace", "0.3") as cluster:
        for _ in range(3):
            kill_master(cluster)
            cluster.start().wait_ready()
            until("two", lambda: ready(cluster, 2))
            ask(cluster, "/print?served")
        assert cluster.stop() == 0
        assert cluster.leftovers() == {}


def test_of_two_masters_one_adopts_and_the_other_says_so_and_exits_1(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        workers = pids(cluster)
        kill_master(cluster)
        command = [*cluster.command, *cluster.arguments]
        rivals = [
            subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        until("one has given up", lambda: any(rival.poll() is not None for rival in rivals))
        (loser,) = (rival for rival in rivals if rival.poll() is not None)
        (winner,) = (rival for rival in rivals if rival is not loser)
        assert loser.returncode == 1
        assert "another holdfast" in loser.communicate()[1]
        until("adopted", lambda: ready(cluster, 2))
        assert pids(cluster) == workers
        assert cluster.status()["pid"] == winner.pid
        winner.terminate()
        winner.communicate(timeout=20)
        assert winner.returncode == 0
        assert cluster.leftovers() == {}


@pytest.mark.parametrize("bake", ["5", "0.1"])
def test_killed_in_the_middle_of_a_roll_the_old_release_serves_on(tmp_path: Path, bake: str) -> None:
    """With a long bake in the canary's time, with a short one before there is one."""
    env = {"IMPORT_SECONDS": "0.7"} if bake == "0.1" else None
    for name in ("deeds_app.py", "echo_app.py"):
        shutil.copy(HERE / name, tmp_path)
    with Cluster(tmp_path, "deeds_app:app", "-w", "2", bake=float(bake), env=env) as cluster:
        workers = pids(cluster)
        with Load(cluster.bind, connections=8) as load:
            cluster.kill(signal.SIGUSR2)
            sign = "roll.canary" if bake == "5" else "roll.started"
            until("half a roll", lambda: sign in cluster.log and cluster.app()["state"] == "rolling")
            kill_master(cluster)
            cluster.start()
            until("the verdict", lambda: (cluster.app() or {}).get("state") == "running")
            last = cluster.app()["last_roll"]
            assert (last["verdict"], last["reason"]) == ("rolled_back", "the master was killed during the roll")
            assert pids(cluster) == workers
            assert cluster.app()["generation"] == 1
            until("only the old spawner", lambda: len(spawners(cluster)) == 1)
            report = load.stop()
        assert report.lost == 0, report


def test_sockets_of_every_kind_are_taken_over_and_stay_the_same(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "app.sock"
    binds = [f"127.0.0.1:{port}", f"[::1]:{port}", f"unix:{path}"]
    (tmp_path / "holdfast.toml").write_text(
        f'[app.web]\napp = "deeds_app:app"\nworkers = 2\nbind = {json.dumps(binds)}\n'
    )
    for name in ("deeds_app.py", "echo_app.py"):
        shutil.copy(HERE / name, tmp_path)
    with Cluster(tmp_path, bind="") as cluster:
        inode = path.stat().st_ino
        kill_master(cluster)
        assert all(ask_at(bind, "/print?x").status == 200 for bind in binds)
        cluster.start().wait_ready()
        assert all(ask_at(bind, "/print?x").status == 200 for bind in binds)
        assert cluster.app()["bind"] == binds
        assert path.stat().st_ino == inode
        assert "in use" not in cluster.log
        assert cluster.roll()["verdict"] == "committed"
        assert all(ask_at(bind, "/print?x").status == 200 for bind in binds)
        assert cluster.stop() == 0
        assert not path.exists()


def test_settings_that_have_changed_meanwhile_are_rolled_to(tmp_path: Path) -> None:
    def write(workers: int) -> None:
        bind = f'bind = "127.0.0.1:{port}"\nbake = 0.1\n'
        (tmp_path / "holdfast.toml").write_text(f'[app.web]\napp = "deeds_app:app"\nworkers = {workers}\n{bind}')

    port = free_port()
    for name in ("deeds_app.py", "echo_app.py"):
        shutil.copy(HERE / name, tmp_path)
    write(1)
    with Cluster(tmp_path, bind="") as cluster:
        kill_master(cluster)
        write(2)
        cluster.start()
        assert cluster.wait_roll(None)["verdict"] == "committed"
        until("two workers", lambda: ready(cluster, 2))
        assert cluster.app()["generation"] == 2


def test_who_dies_while_there_is_no_master_is_replaced_by_the_next(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "3") as cluster:
        before = cluster.app()["totals"]["requests"]
        ask(cluster, "/print?counted")
        kill_master(cluster)
        os.kill(pids_of_workers(cluster)[0], signal.SIGKILL)
        kill_spawner(cluster)
        until("two left", lambda: len(cluster.processes()) == 2)
        cluster.start().wait_ready()
        assert ready(cluster, 3)
        assert cluster.app()["totals"]["requests"] >= before + 1
        assert len(spawners(cluster)) == 1


def test_with_nobody_left_but_the_spawner_the_app_serves_again_at_once(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        (spawner,) = spawners(cluster)
        kill_master(cluster)
        for pid in pids_of_workers(cluster):
            os.kill(pid, signal.SIGKILL)
        until("one left", lambda: list(cluster.processes()) == [spawner])
        with socket.create_connection(("127.0.0.1", int(cluster.bind.rpartition(":")[2]))) as waiting:
            waiting.sendall(b"GET /print?late HTTP/1.1\r\nhost: x\r\n\r\n")
            cluster.start().wait_ready()
            assert waiting.recv(100).startswith(b"HTTP/1.1 200")
        assert spawners(cluster) == [spawner]


def test_killed_while_everything_boots_the_next_one_brings_it_up(tmp_path: Path) -> None:
    cluster = deeds(tmp_path, "-w", "2", env={"IMPORT_SECONDS": "0.5"})
    try:
        cluster.start()
        until("a spawner", lambda: any("importing" in title for title in cluster.processes().values()))
        kill_master(cluster)
        cluster.start().wait_ready()
        assert ready(cluster, 2)
        assert len(spawners(cluster)) == 1
        assert cluster.stop() == 0
        assert cluster.leftovers() == {}
    finally:
        cluster.kill_everything()


def test_upgrade_and_adoption_follow_each_other_in_any_order(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        workers = pids(cluster)
        for _ in range(2):
            assert cluster.ctl("upgrade").returncode == 0
            kill_master(cluster)
            cluster.start().wait_ready()
        assert cluster.ctl("upgrade").returncode == 0
        assert pids(cluster) == workers
        assert cluster.roll()["verdict"] == "committed"
        order(cluster, "/exit?3")
        until("its end", lambda: "exit code 3" in cluster.log)


def test_an_access_log_on_stdout_goes_to_the_new_master_s(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1", "--access-log", "-") as cluster:
        kill_master(cluster)
        os.rename(tmp_path / "stdout", tmp_path / "old-stdout")
        cluster.start().wait_ready()
        ask(cluster, "/print?logged")
        until("its line", lambda: "GET /print?logged" in cluster.output)


def pids_of_workers(cluster: Cluster) -> list[int]:
    """Also when there is no master to ask."""
    return [pid for pid, title in cluster.processes().items() if re.search(r" w\d+ ", title)]
