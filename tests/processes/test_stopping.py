"""Ways to end, and what is left after them (nothing)."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.deeds import Talk, ask, deeds, files, in_flight, kill_spawner, ready, spawners


def refuses(cluster: Cluster) -> bool:
    """Nobody listens any more."""
    try:
        ask(cluster, "/print?is-anybody-there", timeout=2.0)
    except ConnectionRefusedError:
        return True
    except (OSError, http.client.HTTPException):
        return False
    return False


def stop_and_time(cluster: Cluster, number: int = signal.SIGTERM) -> float:
    """Signal the master; the seconds until it has exited with 0, with nothing left behind."""
    began = time.monotonic()
    cluster.kill(number)
    assert cluster.wait_exit() == 0, cluster.log
    seconds = time.monotonic() - began
    assert_nothing_left(cluster)
    return seconds


def assert_nothing_left(cluster: Cluster) -> None:
    assert cluster.leftovers() == {}
    assert [name for name in files(cluster.folder) if name != "access.log"] == []
    assert "Traceback" not in cluster.log


# TERM


def test_term_stops_listening_first_and_lets_requests_under_way_finish(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster, in_flight(cluster, 1.0) as talk:
        cluster.kill(signal.SIGTERM)
        until("new connections refused", lambda: refuses(cluster))
        assert cluster.status()["state"] == "stopping"
        assert cluster.exit_code is None
        assert any(worker["inflight"] for worker in cluster.app()["workers"])
        status, headers, _body = talk.answer()
        assert status == 200
        assert headers["connection"] == "close"
        until("its connection closed", talk.is_closed)
        talk.sock.close()
        assert cluster.wait_exit(1.0) == 0
        assert_nothing_left(cluster)
        assert "lost" not in cluster.log


def test_a_request_that_comes_on_an_idle_connection_within_the_linger_is_answered_and_is_the_last(
    tmp_path: Path,
) -> None:
    with deeds(tmp_path, "-w", "2") as cluster, Talk(cluster) as talk, Talk(cluster) as fresh:
        talk.send("/print?first").answer()
        cluster.kill(signal.SIGTERM)
        until("new connections refused", lambda: refuses(cluster))
        for each in (talk, fresh):
            status, headers, _body = each.send("/print?late").answer()
            assert status == 200
            assert headers["connection"] == "close"
            each.sock.close()
        assert cluster.wait_exit(1.0) == 0
        assert cluster.output.count("late") == 2


def test_idle_connections_are_closed_after_idle_linger(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1", "--idle-linger", "0.5") as cluster, Talk(cluster) as talk:
        talk.send("/print?first").answer()
        began = time.monotonic()
        cluster.kill(signal.SIGTERM)
        until("the idle connection closed", talk.is_closed)
        assert 0.4 < time.monotonic() - began < 1.5
        assert cluster.wait_exit(2.0) == 0


def test_idle_linger_is_one_second_by_default(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster, Talk(cluster) as talk:
        talk.send("/print?first").answer()
        assert 0.9 < stop_and_time(cluster) < 2.0


def test_drain_timeout_cuts_what_still_runs_and_the_exit_code_is_0(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1", "--drain-timeout", "0.5") as cluster, in_flight(cluster, 30.0) as talk:
        assert 0.4 < stop_and_time(cluster) < 2.5
        with pytest.raises((OSError, http.client.HTTPException)):
            talk.answer()
        assert "GET /sleep?30.0: cut after" in cluster.log
        assert "1 request lost with it" in cluster.log


def test_a_worker_blocked_past_its_drain_timeout_is_killed(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1", "--drain-timeout", "0") as cluster, Talk(cluster) as talk:
        talk.send("/block?60")
        until("the loop blocked", lambda: cluster.workers()[0]["inflight"])
        assert 2.0 < stop_and_time(cluster) < 6.0
        assert "killed by SIGKILL" in cluster.log


def test_a_connection_that_waits_to_be_accepted_when_term_comes_is_served(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1", "--max-inflight", "1") as cluster:
        with in_flight(cluster, 0.5) as busy, Talk(cluster) as waiting:
            waiting.send("/print?patience")  # the only worker has no room: this one stays in the kernel's queue
            cluster.kill(signal.SIGTERM)
            assert busy.answer()[0] == 200
            assert waiting.answer()[0] == 200
        assert cluster.wait_exit(1.0) == 0


# INT and QUIT


def test_ctrl_c_with_nothing_under_way_ends_within_half_a_second(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        assert stop_and_time(cluster, signal.SIGINT) < 0.5


def test_ctrl_c_with_only_idle_connections_ends_within_half_a_second(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster, Talk(cluster) as talk:
        talk.send("/print?first").answer()
        assert stop_and_time(cluster, signal.SIGINT) < 0.5


def test_int_lets_requests_under_way_finish(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        with in_flight(cluster, 0.7) as talk:
            cluster.kill(signal.SIGINT)
            assert talk.answer()[0] == 200
        assert cluster.wait_exit(1.0) == 0
        assert_nothing_left(cluster)


def test_a_second_int_is_at_once(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster, in_flight(cluster, 30.0):
        cluster.kill(signal.SIGINT)
        until("stopping", lambda: cluster.status()["state"] == "stopping")
        assert stop_and_time(cluster, signal.SIGINT) < 0.5


@pytest.mark.parametrize("deed", ["/sleep?30", "/block?30"])
def test_quit_is_at_once(tmp_path: Path, deed: str) -> None:
    with deeds(tmp_path, "-w", "2") as cluster, Talk(cluster) as talk:
        talk.send(deed)
        until("the request under way", lambda: any(worker["inflight"] for worker in cluster.workers()))
        assert stop_and_time(cluster, signal.SIGQUIT) < 0.5


# In any case


def nothing(_cluster: Cluster) -> None:
    """A cluster at its best."""


def kill_a_worker(cluster: Cluster) -> None:
    os.kill(cluster.workers()[0]["pid"], signal.SIGKILL)


def kill_all_processes_but_the_master(cluster: Cluster) -> None:
    for pid in cluster.processes():
        if pid != cluster.pid:
            os.kill(pid, signal.SIGKILL)


def stop_the_spawner_and_kill_a_worker(cluster: Cluster) -> None:
    kill_spawner(cluster, signal.SIGSTOP)
    kill_a_worker(cluster)


def fail_the_app(cluster: Cluster) -> None:
    (cluster.folder / "broken").touch()
    for worker in cluster.workers():
        os.kill(worker["pid"], signal.SIGKILL)
    until("the app failed", lambda: cluster.app()["state"] == "failed")
    (cluster.folder / "broken").unlink()


def begin_a_roll(cluster: Cluster) -> None:
    cluster.kill(signal.SIGUSR2)
    until("the roll under way", lambda: cluster.app()["state"] == "rolling")


SITUATIONS = [
    nothing,
    kill_a_worker,
    kill_spawner,
    kill_all_processes_but_the_master,
    stop_the_spawner_and_kill_a_worker,
    fail_the_app,
    begin_a_roll,
]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=["TERM", "INT", "QUIT"])
@pytest.mark.parametrize("situation", SITUATIONS, ids=[each.__name__ for each in SITUATIONS])
def test_no_process_socket_file_or_shared_memory_is_left_in_any_case(
    tmp_path: Path, situation: Callable[[Cluster], object], number: int
) -> None:
    shared_memory = set(os.listdir("/dev/shm"))
    arguments = ("-w", "2", "--pidfile", str(tmp_path / "pid"), "--bind", f"unix:{tmp_path}/web.sock")
    with deeds(tmp_path, *arguments) as cluster:
        own = ["", ".0", ".lock", ".state", ".state.new"]
        assert list(files(tmp_path)) == [*(f"control.sock{each}" for each in own), "pid", "web.sock"]
        situation(cluster)
        stop_and_time(cluster, number)
        assert refuses(cluster)
        assert set(os.listdir("/dev/shm")) <= shared_memory


def test_term_while_the_app_is_still_imported_ends_at_once(tmp_path: Path) -> None:
    cluster = deeds(tmp_path, "-w", "2", env={"IMPORT_SECONDS": "60"})
    try:
        cluster.start()
        until(
            "the spawner importing", lambda: any(title.endswith("importing") for title in cluster.processes().values())
        )
        until("the master answering", cluster.status)
        assert stop_and_time(cluster) < 1.0
    finally:
        cluster.kill_everything()


def test_a_command_that_the_app_left_running_does_not_hold_up_the_end(tmp_path: Path) -> None:
    (tmp_path / "leaves_one.py").write_text(
        "import subprocess\nfrom deeds_app import app\nsubprocess.Popen(['sleep', '7'], start_new_session=True)\n"
    )
    deeds(tmp_path)
    with Cluster(tmp_path, "leaves_one:app", "-w", "1", "--preload", "off") as cluster:
        assert [title for title in cluster.processes().values() if title == "sleep 7"]
        began = time.monotonic()
        assert cluster.stop() == 0
        assert time.monotonic() - began < 1.0


# Without a master


def test_after_a_kill_of_the_master_its_workers_finish_what_they_have_and_leave(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2", "--orphan-grace", "0") as cluster, in_flight(cluster, 1.0) as talk:
        cluster.kill(signal.SIGKILL)
        cluster.wait_exit()
        until("new connections refused", lambda: refuses(cluster))
        until("the spawner gone", lambda: spawners(cluster) == [])
        assert talk.answer()[0] == 200
        talk.sock.close()
        until("every process gone", lambda: cluster.processes() == {}, 1.0)


def test_after_a_kill_of_the_master_idle_connections_keep_no_worker_beyond_drain_timeout(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2", "--orphan-grace", "0", "--drain-timeout", "1") as cluster, Talk(cluster) as talk:
        talk.send("/print?first").answer()
        cluster.kill(signal.SIGKILL)
        cluster.wait_exit()
        until("every process gone", lambda: cluster.processes() == {}, 3.0)


def test_after_a_kill_of_the_master_while_workers_boot_and_a_spawner_imports_nothing_stays(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2", "--orphan-grace", "0", env={"IMPORT_SECONDS": "0.5"}) as cluster:
        begin_a_roll(cluster)
        cluster.kill(signal.SIGKILL)
        cluster.wait_exit()
        until("every process gone", lambda: cluster.processes() == {}, 3.0)


def test_a_terminal_that_goes_away_rolls_and_ends_nothing(tmp_path: Path) -> None:
    """SIGHUP is a reload here; who wants to end with the terminal says so with TERM."""
    with deeds(tmp_path, "-w", "1") as cluster:
        assert cluster.roll(signal.SIGHUP)["verdict"] == "committed"
        assert ready(cluster, 1)


def test_a_terminal_s_ctrl_c_reaches_only_the_master(tmp_path: Path) -> None:
    """It goes to the whole foreground process group, which workers and spawners are not in."""
    with deeds(tmp_path, "-w", "2") as cluster:
        group = os.getpgid(cluster.pid)
        assert [pid for pid in cluster.processes() if os.getpgid(pid) == group] == [cluster.pid]
