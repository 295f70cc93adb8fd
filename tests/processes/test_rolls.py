"""Rolls that succeed: new code and new settings come in, the master and its sockets stay, and no request is lost."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes.cluster import Cluster, free_port, until
from tests.processes.load import Load
from tests.processes.releases import Site
from tests.processes.web import ask

Roll = Callable[[Cluster], dict[str, Any]]


def by_signal(number: int) -> Roll:
    return lambda cluster: cluster.roll(number)


def by_command(cluster: Cluster) -> dict[str, Any]:
    done = cluster.ctl("reload")
    assert done.returncode == 0, done.stdout + done.stderr
    roll: dict[str, Any] = cluster.app()["last_roll"]
    return roll


WAYS = [
    pytest.param(by_signal(signal.SIGUSR2), id="USR2"),
    pytest.param(by_signal(signal.SIGHUP), id="HUP"),
    pytest.param(by_command, id="holdfastctl"),
]


class Watch:
    """Takes the app's status again and again while a test does something."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: list[dict[str, Any]] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.005):
            if app := self._cluster.app():
                self.seen.append(app)


def releases_answering(cluster: Cluster, asks: int = 20) -> set[str]:
    return {ask(cluster.bind).headers["x-release"] for _ in range(asks)}


@pytest.mark.parametrize("preload", ["on", "off"])
@pytest.mark.parametrize("roll", WAYS)
def test_usr2_hup_and_holdfastctl_reload_bring_the_new_code_with_preload_and_without(
    tmp_path: Path, roll: Roll, preload: str
) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2", "--preload", preload) as cluster:
        assert releases_answering(cluster) == {"first"}
        site.write("second")
        verdict = roll(cluster)
        assert (verdict["verdict"], verdict["from"], verdict["to"]) == ("committed", 1, 2)
        assert releases_answering(cluster) == {"second"}
        assert [(w["slot"], w["generation"], w["state"]) for w in cluster.workers()] == [
            (1, 2, "ready"),
            (2, 2, "ready"),
        ]


SETTINGS = """
[app.web]
app = "app:app"
bind = ["{bind}"]
workers = 2
bake = 0.1
boot_timeout = 20
env = {COLOUR = "red", OLD = "yes"}
"""


def test_a_roll_takes_the_newly_read_settings(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(SETTINGS) as cluster:
        before = ask(cluster.bind, "/about").json()["env"]
        assert (before["COLOUR"], before["OLD"]) == ("red", "yes")
        site.settings(SETTINGS.replace("{bind}", cluster.bind).replace('"red", OLD = "yes"', '"blue"'))
        assert cluster.roll()["verdict"] == "committed"
        after = ask(cluster.bind, "/about").json()["env"]
        assert after["COLOUR"] == "blue"
        assert "OLD" not in after


def test_the_number_of_workers_may_grow_and_shrink_with_a_roll(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(SETTINGS) as cluster:
        for count in (4, 1, 3):
            site.settings(SETTINGS.replace("{bind}", cluster.bind).replace("workers = 2", f"workers = {count}"))
            assert cluster.roll()["verdict"] == "committed"
            assert [worker["slot"] for worker in cluster.workers()] == [*range(1, count + 1)]
            assert {w["generation"] for w in cluster.workers()} == {cluster.app()["generation"]}


def test_a_number_of_workers_set_by_hand_outlives_a_roll_that_does_not_change_the_setting(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(SETTINGS) as cluster:
        assert cluster.ctl("scale", "web", "3").returncode == 0
        until("three workers ready", lambda: [w["state"] for w in cluster.workers()] == ["ready"] * 3)
        assert cluster.roll()["verdict"] == "committed"
        assert [w["generation"] for w in cluster.workers()] == [2, 2, 2]


def test_binds_may_be_added_and_removed_with_a_roll(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(SETTINGS) as cluster:
        extra, path = f"127.0.0.1:{free_port()}", tmp_path / "web.sock"
        text = SETTINGS.replace("{bind}", cluster.bind)
        site.settings(text.replace(f'"{cluster.bind}"', f'"{cluster.bind}", "{extra}", "unix:{path}"'))
        assert cluster.roll()["verdict"] == "committed"
        assert cluster.app()["bind"] == [cluster.bind, extra, f"unix:{path}"]
        for address in (cluster.bind, extra, f"unix:{path}"):
            assert ask(address).status == 200
        site.settings(text)
        assert cluster.roll()["verdict"] == "committed"
        assert cluster.app()["bind"] == [cluster.bind]
        until("the extra address refuses", lambda: is_refused(extra))
        assert not path.exists()
        assert ask(cluster.bind).status == 200


def is_refused(address: str) -> bool:
    try:
        ask(address)
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # the last process of the old release that had the socket has just gone
        return False
    return False


def test_timeouts_may_change_with_a_roll(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(SETTINGS) as cluster:
        site.write("slow", after="async def on_startup(state):\n    await asyncio.sleep(60)\n")
        site.settings(SETTINGS.replace("{bind}", cluster.bind).replace("boot_timeout = 20", "boot_timeout = 1.5"))
        verdict = cluster.roll()
        assert verdict["verdict"] == "rolled_back"
        assert verdict["reason"].startswith("not ready within 1.5 s")
        assert releases_answering(cluster) == {"first"}


@pytest.mark.parametrize("preload", ["auto", "off"])
def test_the_masters_pid_the_listening_sockets_and_the_control_socket_never_change(
    tmp_path: Path, preload: str
) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2", "--preload", preload, "--bind", f"unix:{tmp_path / 'web.sock'}") as cluster:

        def lasting() -> tuple[int, int, int, set[str]]:
            control, listening = os.stat(cluster.control), os.stat(tmp_path / "web.sock")
            assert stat.S_ISSOCK(control.st_mode)
            return cluster.status()["pid"], control.st_ino, listening.st_ino, sockets(cluster.pid) & listening_tcp()

        before = lasting()
        assert before[0] == cluster.pid
        assert before[3]
        for number in range(3):
            site.write(f"release {number}")
            assert cluster.roll()["verdict"] == "committed"
            assert lasting() == before


def sockets(pid: int) -> set[str]:
    """Inodes of all sockets that a process has."""
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    return {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:")}


def listening_tcp() -> set[str]:
    """Inodes of all listening TCP sockets of this machine."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == "0A"}


def test_each_slot_has_a_new_worker_ready_before_its_old_one_drains(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write("first", after="async def on_startup(state):\n    await asyncio.sleep(0.1)\n")
    with site.cluster("-w", "3") as cluster:
        site.write("second", after="async def on_startup(state):\n    await asyncio.sleep(0.2)\n")
        with Watch(cluster) as watch:
            assert cluster.roll()["verdict"] == "committed"
        rolling = [app for app in watch.seen if app["state"] == "rolling"]
        assert len(rolling) > 10
        for app in rolling:
            ready = [worker["slot"] for worker in app["workers"] if worker["state"] == "ready"]
            assert set(ready) == {1, 2, 3}, app
            assert len(ready) <= 4, app
            booting = [worker for worker in app["workers"] if worker["state"] == "starting"]
            assert len(booting) <= 1, "surge is 1"
        order = [line for line in cluster.events() if " worker.ready " in line or " worker.exited " in line][3:]
        assert [line.split()[4] for line in order if "web:1" in line] == ["worker.ready", "worker.exited"]


def test_with_a_surge_so_many_slots_are_replaced_at_once_after_the_first(tmp_path: Path) -> None:
    site = Site(tmp_path)
    slow = "async def on_startup(state):\n    await asyncio.sleep(0.2)\n"
    with site.cluster("-w", "4", "--surge", "3") as cluster:
        site.write("second", after=slow)
        with Watch(cluster) as watch:
            assert cluster.roll()["verdict"] == "committed"
        booting = [sum(w["state"] == "starting" for w in app["workers"]) for app in watch.seen]
        assert max(booting) == 3
        assert next(count for count in booting if count) == 1, "the first moves alone"


def test_a_rolled_out_release_keeps_nothing_of_the_old_one_running(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2") as cluster:
        site.write("with one before it")
        assert cluster.roll()["verdict"] == "committed"
        until("five processes", lambda: len(cluster.processes()) == 5)
        before = len(os.listdir(f"/proc/{cluster.pid}/fd"))
        for number in range(2):
            site.write(f"release {number}")
            assert cluster.roll()["verdict"] == "committed"
        until("five processes", lambda: len(cluster.processes()) == 5)
        assert sorted(title for title in cluster.processes().values()) == [
            "holdfast: master",
            "holdfast: web g3 spawner",  # for a rollback
            "holdfast: web g4 spawner",
            "holdfast: web g4 w1 ready",
            "holdfast: web g4 w2 ready",
        ]
        until("no zombies", lambda: cluster.zombies() == [])
        until("no descriptor leaked", lambda: len(os.listdir(f"/proc/{cluster.pid}/fd")) <= before)


def test_two_rolls_asked_for_at_once_end_in_the_newest_release(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3") as cluster:
        with Load(cluster.bind, connections=8, pause_s=0.01) as load:
            site.write("second", after="async def on_startup(state):\n    await asyncio.sleep(0.3)\n")
            cluster.kill(signal.SIGUSR2)
            until("one slot rolled", lambda: {w["generation"] for w in cluster.workers()} == {1, 2})
            site.write("third")
            cluster.kill(signal.SIGUSR2)
            until("all on the third", lambda: [w["generation"] for w in cluster.workers()] == [3, 3, 3])
            report = load.stop()
        until("the verdict", lambda: cluster.app()["last_roll"]["verdict"] != "running")
        roll = cluster.app()["last_roll"]
        assert (roll["from"], roll["to"], roll["verdict"]) == (1, 3, "committed")
        assert releases_answering(cluster) == {"third"}
        assert report.lost == 0, report


def test_a_roll_of_one_app_leaves_the_others_alone(tmp_path: Path) -> None:
    site = Site(tmp_path)
    other = f"127.0.0.1:{free_port()}"
    text = f'{SETTINGS}\n[app.admin]\napp = "app:app"\nbind = ["{other}"]\nworkers = 1\n'
    with site.configured(text) as cluster:
        admin = [worker["pid"] for worker in cluster.workers("admin")]
        site.write("second")
        assert cluster.ctl("reload", "web").returncode == 0
        assert releases_answering(cluster) == {"second"}
        assert ask(other).headers["x-release"] == "first"
        assert [worker["pid"] for worker in cluster.workers("admin")] == admin
        assert cluster.ctl("reload").returncode == 0
        assert ask(other).headers["x-release"] == "second"


def test_reload_shows_each_step_as_it_happens(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2") as cluster:
        done = cluster.ctl("reload")
        assert done.returncode == 0
        steps = [line.split(" (")[0] for line in done.stdout.splitlines()]
        assert steps[:4] == [
            "web: generation 2 is on its way",
            "web: a first worker of generation 2 serves, and is watched for 0.1 s",
            "web: worker 1 replaced",
            "web: worker 2 replaced",
        ], done.stdout
        assert steps[-1].startswith("web: generation 2 committed in ")


def test_the_service_manager_hears_of_readiness_of_each_roll_and_of_the_end(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        with site.cluster("-w", "2", env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as cluster:
            message = heard(manager)
            while "READY" not in message:  # before it come more time, and sockets for the store
                message = heard(manager)
            assert message == {"READY": "1", "STATUS": "web: 2/2 ready, g1"}
            assert "NOTIFY_SOCKET" not in ask(cluster.bind, "/about").json()["env"], "it is meant for the master"
            assert cluster.roll()["verdict"] == "committed"
            reloading = heard(manager)
            assert reloading["RELOADING"] == "1"
            assert int(reloading["MONOTONIC_USEC"]) > 0
            message = reloading
            while "READY" not in message:
                message = heard(manager)
            assert message["STATUS"] == "web: 2/2 ready, g2"
            assert cluster.stop() == 0
            while "STOPPING" not in message:
                message = heard(manager)


def heard(manager: socket.socket) -> dict[str, str]:
    """The next message (sd_notify(3))."""
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())
