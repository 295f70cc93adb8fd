"""What is known of a worker after its death: what it was serving, its stacks, its last words."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes.cluster import Cluster, until

APPS = Path(__file__).with_name("crash_app.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "crash_app.py").write_text(APPS.read_text())
    return tmp_path


def ask(cluster: Cluster, path: str, method: str = "GET", timeout: float = 10.0) -> int | None:
    """The status; None when the connection ends without one."""
    host, _, port = cluster.bind.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    with contextlib.closing(connection):
        try:
            connection.request(method, path, headers={"Cookie": "session=topsecret"})
            return connection.getresponse().status
        except (http.client.HTTPException, OSError):
            return None


def crashes(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cluster.ctl("--json", "crashes").stdout)["crashes"]
    return found


def report(cluster: Cluster, number: int = 0) -> dict[str, Any]:
    """One that there is, or will be soon."""
    listed = until("a crash report", lambda: crashes(cluster)[number:])[0]
    whole: dict[str, Any] = json.loads(cluster.ctl("--json", "crashes", listed["id"]).stdout)
    return whole


def deaths(cluster: Cluster) -> list[str]:
    return [line for line in cluster.log.splitlines() if "worker.exited" in line]


def running(found: dict[str, Any]) -> list[str]:
    return [f"{each['method']} {each['path']}" for each in found["requests"] if each["is_running"]]


def in_background(cluster: Cluster, path: str) -> threading.Thread:
    thread = threading.Thread(target=ask, args=(cluster, path), daemon=True)
    thread.start()
    return thread


def test_a_poison_request_is_named_at_the_first_death(folder: Path) -> None:
    with Cluster(folder, "crash_app:app", "-w", "2", "--env", "PASSWORD=hunter2") as cluster:
        assert ask(cluster, "/segv?token=topsecret", "POST") is None
        found = report(cluster)
        (death,) = deaths(cluster)
        assert "killed by SIGSEGV" in death
        assert "while serving POST /segv from 127.0.0.1 for " in death
        assert running(found) == ["POST /segv"]
        assert found["end"]["signal"] == "SIGSEGV"
        assert found["end"]["was_ready"]
        assert "in fall" in found["stacks"]
        assert found["log"][-1]["line"] == "about to fall, with ***"
        assert found["release"]["generation"] == 1
        assert found["release"]["home"] == str(folder.resolve())
        assert found["history"][-1]["inflight"] == 1
        text = (folder / "control.crashes" / f"{found['id']}.json").read_text()
        assert "topsecret" not in text
        assert "hunter2" not in text
        shown = cluster.ctl("crashes", str(found["pid"])).stdout
        assert "while:    serving POST /segv from 127.0.0.1" in shown
        assert "crash_app.py" in shown
        assert ask(cluster, "/") == 200


def test_an_exit_code_is_a_crash_too_and_its_report_outlives_the_master(folder: Path) -> None:
    with Cluster(folder, "crash_app:app", "-w", "1") as cluster:
        assert ask(cluster, "/exit") is None
        first = report(cluster)
        assert (first["end"]["exit_code"], first["end"]["signal"]) == (3, None)
        assert running(first) == ["GET /exit"]
        assert first["stacks"] == ""
        events = [json.loads(line) for line in cluster.ctl("--json", "events").stdout.splitlines()]
        (exited,) = [event for event in events if event["event"] == "worker.exited"]
        assert exited["request"] == "GET /exit from 127.0.0.1"
        assert exited["report"] == first["id"]
    with cluster:
        assert [each["id"] for each in crashes(cluster)] == [first["id"]]


def test_a_request_that_had_waited_is_named_when_it_was_the_only_one(folder: Path) -> None:
    with Cluster(folder, "crash_app:app", "-w", "1") as cluster:
        assert ask(cluster, "/later") is None
        found = report(cluster)
        assert [each["path"] for each in found["requests"]] == ["/later"]
        assert found["requests"][0]["age_s"] >= 0.2
        assert "while serving GET /later from 127.0.0.1 for 0." in deaths(cluster)[0]


def test_a_kill_with_many_requests_under_way_tells_how_many_and_the_last(folder: Path) -> None:
    with Cluster(folder, "crash_app:app", "-w", "1") as cluster:
        threads = [in_background(cluster, "/waits") for _ in range(70)]
        worker = cluster.workers()[0]
        until("all under way", lambda: cluster.workers()[0]["inflight"] == 70)
        os.kill(worker["pid"], signal.SIGKILL)
        found = report(cluster)
        for thread in threads:
            thread.join(10)
        assert len(found["requests"]) == 64
        assert found["other_requests"] == 6
        assert "while 70 requests were under way, the last begun GET /waits from 127.0.0.1" in deaths(cluster)[0]
        assert running(found) == []


def test_a_blocked_loop_that_is_killed_names_what_it_was_running(folder: Path) -> None:
    with Cluster(folder, "crash_app:app", "-w", "1") as cluster:
        waiting = [in_background(cluster, "/waits") for _ in range(3)]
        until("three wait", lambda: cluster.workers()[0]["inflight"] == 3)
        blocking = in_background(cluster, "/blocks")
        until("the fourth blocks", lambda: cluster.workers()[0]["inflight"] == 4)
        time.sleep(0.3)  # that it blocks the loop, and for how long, is what the report is to tell
        os.kill(cluster.workers()[0]["pid"], signal.SIGKILL)
        found = report(cluster)
        assert running(found) == ["GET /blocks"]
        assert found["requests"][0]["age_s"] >= 0.2
        assert found["history"][-1]["lag_ms"] >= 100
        assert "while serving GET /blocks from 127.0.0.1 for 0." in deaths(cluster)[0]
        assert "with 3 more under way" in deaths(cluster)[0]
        for thread in (*waiting, blocking):
            thread.join(10)


def test_a_wsgi_thread_that_falls_is_told_from_the_others(folder: Path) -> None:
    with Cluster(folder, "crash_app:wsgi", "-w", "1", "--threads", "4") as cluster:
        waiting = in_background(cluster, "/waits")
        until("one waits", lambda: cluster.workers()[0]["inflight"] == 1)
        assert ask(cluster, "/segv") is None
        waiting.join(10)
        found = report(cluster)
        assert running(found) == ["GET /segv"]
        assert {each["path"] for each in found["requests"]} == {"/segv", "/waits"}


def test_what_falls_in_a_thread_of_the_apps_own_accuses_no_single_request(folder: Path) -> None:
    with Cluster(folder, "crash_app:wsgi", "-w", "1", "--threads", "4") as cluster:
        waiting = in_background(cluster, "/waits")
        until("one waits", lambda: cluster.workers()[0]["inflight"] == 1)
        assert ask(cluster, "/thread") is None
        waiting.join(10)
        assert running(report(cluster)) == []


def test_a_kind_of_request_in_three_deaths_within_a_minute_is_called_out_once(folder: Path) -> None:
    with Cluster(folder, "crash_app:app", "-w", "4") as cluster:
        for number in range(4):
            until("a worker takes it", lambda number=number: ask(cluster, f"/segv/{number}") is None)  # type: ignore[misc]
            until("the death is told", lambda number=number: len(deaths(cluster)) == number + 1)  # type: ignore[misc]
        events = [json.loads(line) for line in cluster.ctl("--json", "events").stdout.splitlines()]
        called = [event for event in events if event["event"] == "app.poisoned"]
        assert [event["request"] for event in called] == ["GET /segv/{id}"]
        assert called[0]["level"] == "warning"


def test_an_orderly_stop_leaves_no_report(folder: Path) -> None:
    with Cluster(folder, "crash_app:app", "-w", "2") as cluster:
        assert ask(cluster, "/") == 200
        assert cluster.ctl("restart", "web:1").returncode == 0
        assert crashes(cluster) == []
        assert "no worker has crashed" in cluster.ctl("crashes").stdout
    assert not (folder / "control.crashes").exists()


def test_a_directory_that_can_not_be_written_harms_nobody(folder: Path) -> None:
    (folder / "file").write_text("")
    with Cluster(folder, "crash_app:app", "-w", "1", "--crash-dir", str(folder / "file" / "crashes")) as cluster:
        for number in range(2):
            assert until("a worker", lambda: ask(cluster, "/")) == 200
            assert ask(cluster, "/segv") is None
            until("the death is told", lambda number=number: len(deaths(cluster)) == number + 1)  # type: ignore[misc]
        assert cluster.log.count("a crash report can't be written") == 1
        assert "while serving GET /segv" in deaths(cluster)[0]
        assert until("a worker", lambda: ask(cluster, "/")) == 200


def test_a_master_that_was_upgraded_still_knows_the_last_lines_of_its_workers(folder: Path) -> None:
    with Cluster(folder, "crash_app:app", "-w", "1") as cluster:
        assert ask(cluster, "/says") == 200
        until("the line came through", lambda: "before the upgrade" in cluster.log)
        done = cluster.ctl("upgrade")
        assert done.returncode == 0, done.stderr
        assert ask(cluster, "/segv") is None
        found = report(cluster)
        assert [each["line"] for each in found["log"]] == ["before the upgrade", "about to fall, with None"]
        assert running(found) == ["GET /segv"]
