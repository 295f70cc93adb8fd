"""Rolls that fail: the old workers serve on, the master lives, and the next good release rolls in."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.processes.cluster import Cluster, free_port, until
from tests.processes.load import Load, Report
from tests.processes.releases import HANGS, SLOW_START, Site, web_settings
from tests.processes.web import ask


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
    "a hanging import": Bad(HANGS, reason="within", seconds=1.0),
    "a failing lifespan": Bad(
        after=startup("raise RuntimeError('no database')"), reason="lifespan startup failed: no database"
    ),
    "a lifespan that never ends": Bad(
        after=startup("await asyncio.sleep(600)"), reason="not ready within 2 s", seconds=2.0
    ),
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
    with site.configured(web_settings(preload=preload)) as cluster:
        workers = pids(cluster)
        for bad in BAD.values():
            site.settings(web_settings(cluster.bind, preload=preload, boot_timeout=bad.seconds))
            roll, report = rolled_back(cluster, site, bad)
            assert roll["verdict"] == "rolled_back"
            assert bad.reason in roll["reason"], roll
            assert report.lost == 0, (bad, report)
            assert set(report.releases) == {"first"}, bad
            assert pids(cluster) == workers, "the old workers serve on"
            assert cluster.app()["generation"] == 1
            assert cluster.app()["state"] == "running"
        site.settings(web_settings(cluster.bind, preload=preload))
        site.write("good")
        assert cluster.roll()["verdict"] == "committed"
        assert ask(cluster.bind).headers["x-release"] == "good"
        kept = 1 if preload == "auto" else 0  # for a rollback
        until("only the good release's processes", lambda: len(cluster.processes()) == 4 + kept)
        until("no zombies", lambda: cluster.zombies() == [])


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


WRONG_SETTINGS = {
    "an unknown key": ("wokers = 3", "holdfast.toml: [app.web] wokers: unknown; did you mean workers?"),
    "a wrong value": ("threads = 'many'", "holdfast.toml: [app.web] threads: "),
    "what is no TOML": ("threads = ", "holdfast.toml: "),
}


@pytest.mark.parametrize("way", ["USR2", "holdfastctl"])
def test_a_wrong_settings_file_is_refused_with_file_and_key_and_nothing_changes(tmp_path: Path, way: str) -> None:
    site = Site(tmp_path)
    with site.configured(web_settings()) as cluster:
        workers = pids(cluster)
        for line, message in WRONG_SETTINGS.values():
            site.settings(f"{web_settings(cluster.bind)}\n{line}")
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
        site.settings(web_settings(cluster.bind))
        assert cluster.roll()["verdict"] == "committed"


def test_a_new_bind_that_is_in_use_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    site = Site(tmp_path)
    taken = f"127.0.0.1:{free_port()}"
    text = f'{web_settings()}\n[app.admin]\napp = "app:app"\nbind = ["{taken}"]\nworkers = 1\n'
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
    with site.configured(web_settings(access_log="old.log")) as cluster:
        site.settings(web_settings(cluster.bind, access_log="new.log"))
        site.write("bad", before="raise OSError('no')")
        assert cluster.roll()["verdict"] == "rolled_back"
        assert cluster.ctl("restart", "web:1").returncode == 0
        for number in range(20):
            assert ask(cluster.bind, f"/?{number}").status == 200
        until("all lines", lambda: (tmp_path / "old.log").read_text().count("\n") == 20)
        assert (tmp_path / "new.log").read_text() == ""
