"""A running cluster asked and told things, by holdfastctl and by signals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from supervisor.messages.status import Status
from tests.processes.cluster import Cluster, until
from tests.processes.deeds import Talk, ask, deeds, in_flight, ready, told
from tests.processes.load import Load


def done(cluster: Cluster, *words: str) -> str:
    """What holdfastctl printed; it must have succeeded."""
    finished = cluster.ctl(*words)
    assert finished.returncode == 0, (words, finished)
    return finished.stdout


def refusal(cluster: Cluster, *words: str) -> str:
    """The one line in which a command was refused."""
    finished = cluster.ctl(*words)
    assert finished.returncode == 1, (words, finished)
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    return line


def pids(cluster: Cluster) -> dict[int, int]:
    """By slot."""
    return {worker["slot"]: worker["pid"] for worker in cluster.workers()}


def wait_for_deaths(cluster: Cluster, count: int) -> None:
    until("the death told", lambda: len(told(cluster, "worker.exited")) >= count)


# Counting workers


def test_scale_sets_adds_and_takes_away_workers_and_loses_no_request(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        before = pids(cluster)
        with Load(cluster.bind, connections=12) as load:
            assert "to have 4 workers" in done(cluster, "scale", "web", "4")
            until("four workers", lambda: ready(cluster, 4))
            assert json.loads(done(cluster, "--json", "scale", "web", "-1")) == {"app": "web", "workers": 3}
            until("three workers", lambda: ready(cluster, 3) and len(cluster.app()["workers"]) == 3)
            done(cluster, "scale", "web", "+2")
            until("five workers", lambda: ready(cluster, 5))
            done(cluster, "scale", "web", "1")
            until("one worker", lambda: ready(cluster, 1) and len(cluster.app()["workers"]) == 1)
            report = load.stop()
        assert report.lost == 0, report
        assert pids(cluster) == {1: before[1]}
        assert "1 to 1024 workers" in refusal(cluster, "scale", "web", "0")
        assert "there is no app 'shop'" in refusal(cluster, "scale", "shop", "2")
        assert cluster.ctl("scale", "web", "many").returncode == 2


def test_ttin_and_ttou_add_and_take_away_one_worker(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        cluster.kill(signal.SIGTTIN)
        until("two workers", lambda: ready(cluster, 2))
        cluster.kill(signal.SIGTTOU)
        until("one worker", lambda: ready(cluster, 1) and len(cluster.app()["workers"]) == 1)
        cluster.kill(signal.SIGTTOU)  # the last one stays
        ask(cluster, "/print?still-here")
        assert ready(cluster, 1)


def test_the_number_that_was_scaled_to_survives_a_roll(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        done(cluster, "scale", "web", "2")
        until("two workers", lambda: ready(cluster, 2))
        assert cluster.roll()["verdict"] == "committed"
        until("two workers", lambda: ready(cluster, 2))


# Stopping and starting


def test_an_app_is_stopped_and_started_through_holdfastctl(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        assert done(cluster, "stop", "web").startswith("web: stopped")
        assert cluster.app()["state"] == "stopped"
        assert [worker["state"] for worker in cluster.app()["workers"]] == ["stopped", "stopped"]
        assert {worker["pid"] for worker in cluster.app()["workers"]} == {0}
        with pytest.raises(ConnectionRefusedError):
            ask(cluster, "/")
        assert list(cluster.processes()) == [cluster.pid]
        assert cluster.ctl("status", "web").returncode == 3
        assert "web is stopped" in refusal(cluster, "stop", "web")
        assert "holdfastctl start web" in refusal(cluster, "reload", "web")
        assert "holdfastctl start web" in refusal(cluster, "scale", "web", "2")
        assert done(cluster, "start", "web").startswith("web: started: 2 workers are ready")
        assert "web is running" in refusal(cluster, "start", "web")
        ask(cluster, "/print?again")
        assert cluster.app()["generation"] == 2


def test_a_stop_lets_requests_under_way_finish(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        with in_flight(cluster, 3.0) as talk:
            program = "import sys, holdfast; sys.exit(holdfast.ctl())"
            command = [sys.executable, "-c", program, "-s", cluster.control, "stop", "web"]
            stop = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            status, headers, _body = talk.answer()
            assert (status, headers["connection"]) == (200, "close")
        assert stop.wait(5) == 0
        assert cluster.app()["totals"]["lost"] == 0


def test_a_restart_of_an_app_imports_its_code_anew_and_keeps_who_comes_meanwhile_waiting(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2", env={"IMPORT_SECONDS": "0.3"}) as cluster:
        before = set(pids(cluster).values())
        with Load(cluster.bind, connections=8, fresh=1.0) as load:
            assert done(cluster, "restart", "web").startswith("web: restarted: 2 workers are ready")
            report = load.stop()
        assert report.lost == 0, report
        assert len(report.releases) == 2
        assert not before & set(pids(cluster).values())
        assert cluster.app()["totals"]["restarts"] == 0


def test_a_stopped_app_is_started_by_restart(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        done(cluster, "stop", "web")
        assert done(cluster, "restart", "web").startswith("web: restarted: 1 worker is ready")
        ask(cluster, "/print?again")


def test_all_means_every_app(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        assert "stopped" in done(cluster, "stop", "all")
        assert "started" in done(cluster, "start", "all")
        ask(cluster, "/print?again")


def test_a_single_worker_is_stopped_and_started_and_loses_no_request(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        before = pids(cluster)
        with Load(cluster.bind, connections=12) as load:
            assert done(cluster, "stop", "web:1").startswith("web:1: stopped")
            assert pids(cluster) == {2: before[2]}
            shown = {worker["slot"]: worker["state"] for worker in cluster.app()["workers"]}
            assert shown == {1: "stopped", 2: "ready"}
            assert cluster.app()["state"] == "running"
            assert cluster.ctl("status", "web:1").returncode == 3
            assert cluster.ctl("status", "web:2").returncode == 0
            assert "web:1 is stopped" in refusal(cluster, "stop", "web:1")
            assert cluster.roll()["verdict"] == "committed"  # it stays stopped
            assert set(pids(cluster)) == {2}
            assert done(cluster, "start", "web:1").startswith("web:1: started")
            assert "web:1 is running" in refusal(cluster, "start", "web:1")
            report = load.stop()
        assert report.lost == 0, report
        assert {worker["generation"] for worker in cluster.workers()} == {2}


def test_a_single_worker_is_restarted_new_one_first(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        before = pids(cluster)
        with Load(cluster.bind, connections=12) as load:
            assert done(cluster, "restart", "web:2").startswith("web:2: restarted")
            report = load.stop()
        assert report.lost == 0, report
        assert pids(cluster)[1] == before[1]
        assert pids(cluster)[2] != before[2]
        (recycled,) = told(cluster, "worker.recycled")
        assert recycled["why"] == "restarted by hand"
        assert "has no worker 9" in refusal(cluster, "restart", "web:9")


def test_an_app_that_cannot_be_started_again_is_failed_and_gets_well_by_itself(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        done(cluster, "stop", "web")
        good = (tmp_path / "deeds_app.py").read_text()
        (tmp_path / "deeds_app.py").write_text("import nothing_like_that\n")
        assert "could not be started" in refusal(cluster, "start", "web")
        assert cluster.app()["state"] == "failed"
        assert cluster.exit_code is None
        assert "No module named 'nothing_like_that'" in cluster.log
        assert "the workers serve on" not in cluster.log
        (tmp_path / "deeds_app.py").write_text(good)
        until("it serves", lambda: ready(cluster, 1))
        until("it runs", lambda: cluster.app()["state"] == "running")


def test_a_stop_while_the_app_is_still_imported_and_one_during_a_roll_are_done_at_once(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        good = (tmp_path / "deeds_app.py").read_text()
        (tmp_path / "deeds_app.py").write_text("import time\ntime.sleep(60)\n")
        cluster.kill(signal.SIGUSR2)
        until("the roll under way", lambda: cluster.app()["state"] == "rolling")
        done(cluster, "stop", "web")
        assert list(cluster.processes()) == [cluster.pid]
        assert cluster.app()["last_roll"]["verdict"] == "rolled_back"
        assert "the app was stopped" in cluster.app()["last_roll"]["reason"]
        cluster.ctl("start", "web", "--timeout", "0")
        assert cluster.app()["state"] == "starting"
        done(cluster, "stop", "web")
        assert list(cluster.processes()) == [cluster.pid]
        (tmp_path / "deeds_app.py").write_text(good)
        done(cluster, "start", "web")
        assert ready(cluster, 2)
        assert cluster.zombies() == []


# Signals and pids


def test_pid_prints_the_master_s_an_app_s_or_a_worker_s_pid(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2", "--pidfile", str(tmp_path / "pid")) as cluster:
        workers = pids(cluster)
        assert done(cluster, "pid") == f"{cluster.pid}\n"
        assert (tmp_path / "pid").read_text() == f"{cluster.pid}\n"
        assert done(cluster, "pid", "web") == f"{workers[1]}\n{workers[2]}\n"
        assert done(cluster, "pid", "web:2") == f"{workers[2]}\n"
        assert json.loads(done(cluster, "--json", "pid")) == {"pid": cluster.pid}


def test_signal_reaches_one_worker_or_all_of_an_app_s(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        before = pids(cluster)
        assert str(before[2]) in done(cluster, "signal", "KILL", "web:2")
        until("the death told", lambda: told(cluster, "worker.exited"))
        until("two workers", lambda: ready(cluster, 2))
        assert pids(cluster)[1] == before[1]
        assert told(cluster, "worker.exited")[0]["reason"] == "killed by SIGKILL"
        sent = json.loads(done(cluster, "--json", "signal", "sigusr1", "web"))
        assert sorted(sent["pids"]) == sorted(pids(cluster).values())
        assert "there is no signal 'NONE'" in refusal(cluster, "signal", "NONE", "web")


def test_shutdown_ends_all_and_waits_for_it(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        assert f"holdfast (pid {cluster.pid}) has stopped" in done(cluster, "shutdown")
        assert cluster.wait_exit(1.0) == 0
        assert cluster.leftovers() == {}
        assert cluster.ctl("status").returncode == 4


# Looking


def test_status_is_a_plain_table_in_a_pipe_which_a_person_reads_at_a_glance(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        ask(cluster, "/print?one")
        master, app, head, *workers = done(cluster, "status").rstrip().splitlines()
        assert re.fullmatch(rf"holdfast \S+, pid {cluster.pid}, up \S+, running", master)
        assert re.fullmatch(rf"web  running  generation 1  {cluster.bind}  2/2 ready  1 request  0 restarts", app)
        assert head.split()[:5] == ["WORKER", "PID", "GEN", "STATE", "UPTIME"]
        assert [line.split()[:4] for line in workers] == [
            [f"web:{slot}", str(pid), "1", "ready"] for slot, pid in sorted(pids(cluster).items())
        ]
        assert "\x1b" not in done(cluster, "status")


def test_status_is_coloured_on_a_terminal(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        ours, theirs = pty.openpty()
        program = "import sys, holdfast; sys.exit(holdfast.ctl())"
        environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"}
        command = [sys.executable, "-c", program, "-s", cluster.control, "status"]
        subprocess.run(command, stdout=theirs, env=environment, check=True)
        os.close(theirs)
        assert b"\x1b[32mrunning\x1b[0m" in os.read(ours, 65536)
        os.close(ours)


def test_reload_shows_each_step_as_it_happens(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        shown = done(cluster, "reload")
        steps = ["generation 2 is on its way", "(1 of 2)", "(2 of 2)", "generation 2 committed"]
        places = [shown.find(step) for step in steps]
        assert -1 not in places, shown
        assert places == sorted(places)


def test_json_status_is_the_contract_s_object(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster, in_flight(cluster, 60.0), Talk(cluster) as idle:
        idle.send("/print?one").answer()
        assert cluster.roll()["verdict"] == "committed"
        text = done(cluster, "--json", "status")
        msgspec.json.decode(text, type=Status, strict=True)
        status = json.loads(text)
        assert set(status) == {"version", "pid", "uptime_s", "state", "apps", "programs"}
        assert (status["pid"], status["state"], status["programs"]) == (cluster.pid, "running", {})
        web = status["apps"]["web"]
        assert set(web) == {"state", "generation", "bind", "workers", "totals", "last_roll"}
        assert (web["state"], web["generation"], web["bind"]) == ("running", 2, [cluster.bind])
        assert web["totals"] == {"requests": 2, "shed": 0, "lost": 0, "restarts": 0, "stalls": 0}
        assert {"from", "to", "verdict", "reason", "seconds"} <= set(web["last_roll"])
        fields = (
            "slot pid generation state uptime_s inflight connections requests lag_ms lag_max_ms rss_bytes pss_bytes"
        )
        for worker in web["workers"]:
            assert set(worker) == {*fields.split(), "cpu_percent", "restarts", "uss_bytes"}
        leaving = [worker for worker in web["workers"] if worker["inflight"]]
        assert [(worker["state"], worker["generation"], worker["requests"] >= 1) for worker in leaving] == [
            ("draining", 1, True)
        ]
        cluster.kill(signal.SIGQUIT)  # and not wait for it


def test_process_titles_tell_app_generation_slot_and_state(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        until(
            "the titles",
            lambda: (
                sorted(cluster.processes().values())
                == ["holdfast: master", "holdfast: web g1 spawner", "holdfast: web g1 w1 ready"]
            ),
        )
        with in_flight(cluster, 1.0):
            assert cluster.roll()["verdict"] == "committed"
            titles = set(cluster.processes().values())
            assert {"holdfast: web g1 w1 draining", "holdfast: web g2 w1 ready"} <= titles


def test_no_counter_ever_goes_backwards_whoever_dies(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster, Load(cluster.bind, connections=8):
        seen = cluster.app()["totals"]
        for round_number in range(3):
            os.kill(cluster.workers()[round_number % 2]["pid"], signal.SIGKILL)
            wait_for_deaths(cluster, round_number + 1)
            now = cluster.app()["totals"]
            assert all(now[name] >= seen[name] for name in now), (seen, now)
            seen = now
            until("two workers", lambda: ready(cluster, 2))
        assert seen["restarts"] == 3
