"""Rolls that fail or are disturbed: the old workers serve on, the master lives, and the next good release rolls in."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.processes.cluster import Cluster, free_port, until
from tests.processes.load import Load, Report
from tests.processes.releases import Site
from tests.processes.web import ask

HANGS = "import time\ntime.sleep(600)"
SLOW_START = "async def on_startup(state):\n    await asyncio.sleep(0.4)\n"


def startup(line: str) -> str:
    return f"async def on_startup(state):\n    {line}\n"


class Bad(NamedTuple):
    """A release that can't serve."""

    before: str = ""
    after: str = ""
    reason: str = ""  # part of the verdict's
    output: str = ""  # part of what the release itself writes
    seconds: float = 60.0  # boot_timeout


BAD = {
    "an ImportError": Bad(
        "import no_such_module",
        reason="can't import app:app: ModuleNotFoundError: No module named 'no_such_module'",
        output="import no_such_module\nModuleNotFoundError: No module named 'no_such_module'",
    ),
    "a SyntaxError": Bad("x = (", reason="can't import app:app: SyntaxError: '(' was never closed", output="x = (\n"),
    "an exit": Bad(
        "import sys\nsys.exit(3)", reason="app:app called exit(3) while it was imported", output="SystemExit: 3"
    ),
    "a missing app": Bad(after="del app", reason="has no 'app'"),
    "a sudden death": Bad("import os\nos._exit(3)", reason="exit code 3"),
    "a crash of the interpreter": Bad("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", reason="SIGSEGV"),
    "a hanging import": Bad(HANGS, reason="within", seconds=0.7),
    "a failing lifespan": Bad(
        after=startup("raise RuntimeError('no database')"), reason="lifespan startup failed: no database"
    ),
    "a lifespan that never ends": Bad(after=startup("await asyncio.sleep(600)"), reason="within 0.7 s", seconds=0.7),
    "a startup that exits": Bad(after=startup("sys.exit(4)"), reason="the app called exit(4) in its lifespan startup"),
    "a startup that dies": Bad(after=startup("os._exit(5)"), reason="exit code 5"),
}


def rolled_back(cluster: Cluster, site: Site, bad: Bad) -> tuple[dict[str, Any], Report]:
    """Put the bad release in place and roll, under load."""
    site.write("bad", before=bad.before, after=bad.after)
    with Load(cluster.bind, connections=8, fresh=0.5, posts=0.5) as load:
        before = cluster.app()["last_roll"]
        done = cluster.ctl("reload")
        roll = cluster.wait_roll(before)
        report = load.stop()
    assert done.returncode == 1, done.stdout + done.stderr
    assert bad.reason in done.stdout
    for line in bad.output.splitlines():
        assert line in done.stdout, done.stdout
    return roll, report


@pytest.mark.parametrize("preload", ["auto", "off"])
def test_a_release_that_does_not_come_up_changes_nothing_and_the_next_good_release_rolls_in(
    tmp_path: Path, preload: str
) -> None:
    site = Site(tmp_path)
    with site.configured(settings(preload=preload)) as cluster:
        workers = pids(cluster)
        for bad in BAD.values():
            site.settings(settings(cluster.bind, preload=preload, boot_timeout=bad.seconds))
            roll, report = rolled_back(cluster, site, bad)
            assert roll["verdict"] == "rolled_back"
            assert bad.reason in roll["reason"], roll
            assert report.lost == 0, (bad, report)
            assert set(report.releases) == {"first"}, bad
            assert pids(cluster) == workers, "the old workers serve on"
            assert cluster.app()["generation"] == 1
            assert cluster.app()["state"] == "running"
        site.settings(settings(cluster.bind, preload=preload))
        site.write("good")
        assert cluster.roll()["verdict"] == "committed"
        assert ask(cluster.bind).headers["x-release"] == "good"
        until("only the good release's processes", lambda: len(cluster.processes()) == 4)
        assert cluster.zombies() == []


def settings(bind: str = "{bind}", **more: object) -> str:
    lines = [f"{key} = {value!r}" for key, value in {"workers": 2, **more}.items()]
    return "\n".join(["[app.web]", 'app = "app:app"', f'bind = ["{bind}"]', *lines])


def pids(cluster: Cluster) -> list[int]:
    return [worker["pid"] for worker in cluster.workers()]


def test_reload_shows_the_releases_own_traceback_without_holdfasts_frames(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1") as cluster:
        site.write("bad", before="def connect():\n    raise OSError('no database')\nconnect()\n")
        done = cluster.ctl("reload")
        assert done.returncode == 1
        assert "Traceback (most recent call last):" in done.stdout
        assert "    raise OSError('no database')" in done.stdout
        assert "supervisor/" not in done.stdout
        assert "importlib" not in done.stdout
        last = done.stdout.splitlines()[-1]
        assert last.startswith("web: generation 2 rolled back after ")
        assert "OSError: no database" in last
        assert last.endswith("generation 1 goes on serving")


def test_a_release_that_is_not_ready_on_its_ready_path_within_boot_timeout_is_rolled_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    guard = "inner = app\nasync def app(scope, receive, send):\n"
    guard += "    if scope.get('path') == '/health':\n"
    guard += "        await send({'type': 'http.response.start', 'status': 503, 'headers': []})\n"
    guard += "        await send({'type': 'http.response.body', 'body': b''})\n"
    guard += "    else:\n        await inner(scope, receive, send)\n"
    with site.cluster("-w", "2", "--ready-path", "/health", "--boot-timeout", "1.5") as cluster:
        bad = Bad(after=guard, reason="not ready within 1.5 s (ready_path /health answers 503)")
        roll, report = rolled_back(cluster, site, bad)
        assert roll["verdict"] == "rolled_back"
        assert report.lost == 0, report
        assert set(report.releases) == {"first"}


def test_a_release_that_crashes_right_after_it_was_ready_takes_one_slot_at_most_and_goes_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3") as cluster:
        crash = SLOW_START + "    asyncio.get_running_loop().call_later(0.1, os._exit, 9)\n"
        roll, report = rolled_back(cluster, site, Bad(after=crash, reason="exit code 9"))
        assert roll["verdict"] == "rolled_back"
        assert report.lost <= 8, "no more than the crashed worker had: each client has one request at a time"
        assert report.releases.get("bad", 0) < report.releases["first"] / 2
        until("three workers of the first", lambda: [w["generation"] for w in cluster.workers()] == [1, 1, 1])
        until("all ready", lambda: [w["state"] for w in cluster.workers()] == ["ready"] * 3)
        assert {ask(cluster.bind).headers["x-release"] for _ in range(10)} == {"first"}


def test_a_newer_usr2_does_not_wait_for_a_hanging_import(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2") as cluster, Load(cluster.bind, connections=8) as load:
        site.write("hangs", before=HANGS)
        cluster.kill(signal.SIGUSR2)
        until("the spawner that hangs", lambda: "holdfast: web g2 importing" in cluster.processes().values())
        site.write("good")
        cluster.kill(signal.SIGUSR2)
        roll = cluster.wait_roll({"to": 2}, deadline=10)
        assert (roll["from"], roll["to"], roll["verdict"]) == (1, 3, "committed")
        until("no trace of the second", lambda: not any(" g2 " in title for title in cluster.processes().values()))
        report = load.stop()
        assert report.lost == 0, report
        assert set(report.releases) == {"first", "good"}


def test_a_newer_usr2_does_not_wait_for_a_worker_that_hangs_at_import_either(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2", "--preload", "off") as cluster:
        site.write("hangs", before=HANGS)
        cluster.kill(signal.SIGUSR2)
        until("a worker that hangs", lambda: "holdfast: web g2 w1 starting" in cluster.processes().values())
        site.write("good")
        cluster.kill(signal.SIGUSR2)
        assert cluster.wait_roll({"to": 2}, deadline=10)["verdict"] == "committed"
        assert ask(cluster.bind).headers["x-release"] == "good"


def test_a_holdfastctl_reload_that_is_overtaken_follows_the_newer_one(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1") as cluster:
        site.write("hangs", before=HANGS)
        assert cluster.ctl("reload", "--no-wait").returncode == 0
        site.write("good")
        done = cluster.ctl("reload")
        assert done.returncode == 0, done.stdout
        assert "generation 3 committed" in done.stdout


WRONG_SETTINGS = {
    "an unknown key": ("wokers = 3", "holdfast.toml: [app.web] wokers: unknown; did you mean workers?"),
    "a wrong value": ("threads = 'many'", "holdfast.toml: [app.web] threads: "),
    "what is no TOML": ("threads = ", "holdfast.toml: "),
}


@pytest.mark.parametrize("way", ["USR2", "holdfastctl"])
def test_a_wrong_settings_file_is_refused_with_file_and_key_and_nothing_changes(tmp_path: Path, way: str) -> None:
    site = Site(tmp_path)
    with site.configured(settings()) as cluster:
        workers = pids(cluster)
        for line, message in WRONG_SETTINGS.values():
            site.settings(f"{settings(cluster.bind)}\n{line}")
            if way == "USR2":
                cluster.kill(signal.SIGUSR2)
                until(message, lambda message=message: message in cluster.log)  # type: ignore[misc]
            else:
                done = cluster.ctl("reload")
                assert done.returncode == 1
                assert message in done.stderr
                assert len(done.stderr.splitlines()) == 1
        (tmp_path / "holdfast.toml").unlink()
        assert cluster.ctl("reload").returncode == 1
        assert pids(cluster) == workers
        assert (cluster.app()["state"], cluster.app()["last_roll"]) == ("running", None)
        site.settings(settings(cluster.bind))
        assert cluster.roll()["verdict"] == "committed"


def test_a_new_bind_that_is_in_use_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    site = Site(tmp_path)
    taken = f"127.0.0.1:{free_port()}"
    text = f'{settings()}\n[app.admin]\napp = "app:app"\nbind = ["{taken}"]\nworkers = 1\n'
    with site.configured(text) as cluster:
        workers = pids(cluster), [w["pid"] for w in cluster.workers("admin")]
        free = f"127.0.0.1:{free_port()}"
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            address = f"127.0.0.1:{stranger.getsockname()[1]}"
            site.settings(text.replace("{bind}", free).replace(taken, address))
            done = cluster.ctl("reload")
        assert done.returncode == 1
        assert f"{address} is in use" in done.stderr
        assert (pids(cluster), [w["pid"] for w in cluster.workers("admin")]) == workers
        assert cluster.app()["last_roll"] is None, "neither app rolls when one of them can't"
        with pytest.raises(ConnectionRefusedError):
            ask(free)


def test_a_reload_of_a_stopped_app_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1") as cluster:
        assert cluster.ctl("stop", "web").returncode == 0
        for arguments in (["reload", "web"], ["reload"]):
            done = cluster.ctl(*arguments)
            assert done.returncode == 1
            assert "stopped; holdfastctl start" in done.stderr
        cluster.kill(signal.SIGUSR2)
        assert cluster.ctl("start", "web").returncode == 0
        assert cluster.app()["state"] == "running"
        assert cluster.app()["last_roll"] is None


def rolling(cluster: Cluster, site: Site, name: str = "second") -> Callable[[], bool]:
    """Begin a roll slow enough to be disturbed; returns when its first slot has moved."""
    site.write(name, after=SLOW_START)
    cluster.kill(signal.SIGUSR2)
    until("one slot rolled", lambda: any(w["generation"] == 2 and w["state"] == "ready" for w in cluster.workers()))
    return lambda: cluster.app()["last_roll"]["verdict"] != "running"


def test_scaling_up_during_a_roll_ends_with_so_many_workers_of_the_new_release(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2") as cluster:
        decided = rolling(cluster, site)
        assert cluster.ctl("scale", "web", "4").returncode == 0
        until("the verdict", decided)
        assert cluster.app()["last_roll"]["verdict"] == "committed"
        assert [(w["slot"], w["generation"]) for w in cluster.workers()] == [(1, 2), (2, 2), (3, 2), (4, 2)]


def test_scaling_down_during_a_roll_ends_with_so_many_workers_of_the_new_release(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "4") as cluster:
        decided = rolling(cluster, site)
        assert cluster.ctl("scale", "web", "2").returncode == 0
        until("the verdict", decided)
        assert cluster.app()["last_roll"]["verdict"] == "committed"
        assert [(w["slot"], w["generation"]) for w in cluster.workers()] == [(1, 2), (2, 2)]


def test_a_roll_that_grows_and_is_overtaken_by_one_that_grows_too_has_all_its_workers(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(settings(workers=1)) as cluster:
        site.settings(settings(cluster.bind, workers=3))
        site.write("second", after=SLOW_START)
        cluster.kill(signal.SIGUSR2)
        until("the second slot on its way", lambda: any(w["slot"] == 2 for w in cluster.workers()))
        site.write("third")
        cluster.kill(signal.SIGUSR2)
        assert cluster.wait_roll({"to": 2})["verdict"] == "committed"
        assert [(w["slot"], w["generation"]) for w in cluster.workers()] == [(1, 3), (2, 3), (3, 3)]
        assert cluster.app()["state"] == "running"


def test_a_slot_stopped_by_hand_during_a_roll_that_grows_costs_no_other_slot(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(settings(workers=2)) as cluster:
        site.settings(settings(cluster.bind, workers=4))
        decided = rolling(cluster, site)
        assert cluster.ctl("stop", "web:2").returncode == 0
        until("the verdict", decided)
        assert [(w["slot"], w["generation"]) for w in cluster.workers()] == [(1, 2), (3, 2), (4, 2)]


def test_a_roll_that_grows_and_fails_takes_its_extra_workers_away(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(settings()) as cluster:
        site.settings(settings(cluster.bind, workers=4))
        fails_third = "async def on_startup(state):\n    if os.path.exists('stop'):\n        raise RuntimeError('no')\n"
        site.write("second", after=fails_third + "    await asyncio.sleep(0.3)\n")
        cluster.kill(signal.SIGUSR2)
        until("three slots rolled", lambda: sum(w["generation"] == 2 for w in cluster.workers()) == 3)
        (tmp_path / "stop").touch()
        assert cluster.wait_roll(None)["verdict"] == "rolled_back"
        until(
            "the first two slots", lambda: [(w["slot"], w["generation"]) for w in cluster.workers()] == [(1, 1), (2, 1)]
        )


def test_a_worker_that_crashes_during_a_roll_is_replaced_and_the_roll_goes_on(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3") as cluster:
        decided = rolling(cluster, site)
        victim = cluster.workers()[-1]
        assert victim["generation"] == 1
        os.kill(victim["pid"], signal.SIGKILL)
        until("the verdict", decided)
        assert cluster.app()["last_roll"]["verdict"] == "committed"
        until("all of the second", lambda: [w["generation"] for w in cluster.workers()] == [2, 2, 2])


def test_a_new_worker_killed_during_a_roll_sends_the_release_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3") as cluster:
        decided = rolling(cluster, site)
        os.kill(next(w["pid"] for w in cluster.workers() if w["generation"] == 2), signal.SIGKILL)
        until("the verdict", decided)
        roll = cluster.app()["last_roll"]
        assert (roll["verdict"], roll["reason"]) == ("rolled_back", "killed by SIGKILL")
        until("all of the first", lambda: [w["generation"] for w in cluster.workers()] == [1, 1, 1])
        assert ask(cluster.bind).headers["x-release"] == "first"


def spawner(cluster: Cluster, generation: int) -> int:
    titles = (f"holdfast: web g{generation} spawner", f"holdfast: web g{generation} importing")
    return next(pid for pid, title in cluster.processes().items() if title in titles)


def test_the_old_spawner_killed_during_a_roll_disturbs_nobody(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3") as cluster, Load(cluster.bind, connections=8) as load:
        decided = rolling(cluster, site)
        os.kill(spawner(cluster, 1), signal.SIGKILL)
        until("the verdict", decided)
        assert cluster.app()["last_roll"]["verdict"] == "committed"
        assert load.stop().lost == 0
        until("one spawner left", lambda: len(cluster.processes()) == 5)


def test_the_new_spawner_killed_during_a_roll_sends_the_release_back_without_a_lost_request(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3") as cluster, Load(cluster.bind, connections=8) as load:
        decided = rolling(cluster, site)
        os.kill(spawner(cluster, 2), signal.SIGKILL)
        until("the verdict", decided)
        roll = cluster.app()["last_roll"]
        assert roll["verdict"] == "rolled_back"
        assert "the spawner ended: killed by SIGKILL" in roll["reason"]
        until("all of the first", lambda: [w["generation"] for w in cluster.workers()] == [1, 1, 1])
        report = load.stop()
        assert report.lost == 0, report
        site.write("third")
        assert cluster.roll()["verdict"] == "committed"


def test_the_new_spawner_killed_while_it_imports_sends_the_release_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1") as cluster:
        site.write("hangs", before=HANGS)
        cluster.kill(signal.SIGUSR2)
        until("it imports", lambda: "holdfast: web g2 importing" in cluster.processes().values())
        os.kill(spawner(cluster, 2), signal.SIGKILL)
        assert cluster.wait_roll(None)["reason"] == "the spawner ended: killed by SIGKILL"
        assert ask(cluster.bind).headers["x-release"] == "first"


@pytest.mark.parametrize("when", ["importing", "rolling"])
def test_a_stop_during_a_roll_ends_everything_with_exit_code_0(tmp_path: Path, when: str) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3") as cluster:
        if when == "rolling":
            rolling(cluster, site)
        else:
            site.write("hangs", before=HANGS)
            cluster.kill(signal.SIGUSR2)
            until("it imports", lambda: "holdfast: web g2 importing" in cluster.processes().values())
        assert cluster.stop(deadline=5) == 0
        assert cluster.leftovers() == {}
        assert "the app was stopped" in cluster.log


def test_an_app_that_could_not_serve_gets_well_by_a_roll(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write("bad", after=startup("raise RuntimeError('no database')"))
    cluster = site.cluster("-w", "2", "--preload", "off").start()
    try:
        until("a worker that failed", lambda: "lifespan startup failed: no database" in cluster.log)
        site.write("good")
        cluster.kill(signal.SIGUSR2)
        cluster.wait_ready()
        assert ask(cluster.bind).headers["x-release"] == "good"
    finally:
        cluster.kill_everything()


def test_a_first_release_that_fails_while_the_next_one_already_rolls_does_not_end_the_master(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write(
        "bad", before="import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\nraise OSError('no')"
    )
    cluster = site.cluster("-w", "1").start()
    try:
        until("it imports", lambda: "holdfast: web g1 importing" in cluster.processes().values())
        site.write("good", before="import time\ntime.sleep(0.5)")
        cluster.kill(signal.SIGUSR2)
        until("the next one imports", lambda: "holdfast: web g2 importing" in cluster.processes().values())
        (tmp_path / "go").touch()
        cluster.wait_ready()
        assert ask(cluster.bind).headers["x-release"] == "good"
    finally:
        cluster.kill_everything()


def test_an_access_log_named_by_a_release_that_failed_is_not_written_to(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(settings(access_log="old.log")) as cluster:
        site.settings(settings(cluster.bind, access_log="new.log"))
        site.write("bad", before="raise OSError('no')")
        assert cluster.roll()["verdict"] == "rolled_back"
        assert cluster.ctl("restart", "web:1").returncode == 0
        for number in range(20):
            assert ask(cluster.bind, f"/?{number}").status == 200
        until("all lines", lambda: (tmp_path / "old.log").read_text().count("\n") == 20)
        assert (tmp_path / "new.log").read_text() == ""
