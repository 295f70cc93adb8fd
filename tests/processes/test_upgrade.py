"""`holdfastctl upgrade`: the master becomes the code that is installed now, and nobody but the operator notices."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.master import record
from tests.processes.cluster import Cluster, until
from tests.processes.installed import Installed
from tests.processes.load import Load
from tests.processes.web import ask

RESUME = "    kept = record.decode(read_memory(memory))\n    if kept.own is None:"
SLOW = f'    __import__("time").sleep(1.5)\n{RESUME}'


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path)


@pytest.fixture
def cluster(installed: Installed, tmp_path: Path) -> Iterator[Cluster]:
    with installed.cluster(tmp_path, "deeds_app:app", "-w", "2") as it:
        yield it


def upgrade(cluster: Cluster) -> dict[str, Any]:
    """One that comes to an end; its report."""
    done = cluster.ctl("--json", "upgrade")
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def pids(cluster: Cluster) -> list[int]:
    return [worker["pid"] for worker in cluster.workers()]


def descriptors(cluster: Cluster) -> int:
    return len(os.listdir(f"/proc/{cluster.pid}/fd"))


def test_ten_upgrades_under_load_lose_nothing_and_change_no_process(installed: Installed, tmp_path: Path) -> None:
    with installed.cluster(tmp_path, "echo_app:app", "-w", "3") as cluster:
        before, workers = cluster.status(), pids(cluster)
        with Load(cluster.bind, connections=16) as load:
            upgrade(cluster)
            open_files = descriptors(cluster)
            for number in range(2, 11):
                installed.release(f"0.1.{number}") if number == 2 else installed.change(
                    "__init__.py", f'"0.1.{number - 1}"', f'"0.1.{number}"'
                )
                assert upgrade(cluster)["to"] == f"0.1.{number}"
            assert descriptors(cluster) == open_files
            report = load.stop()
        after = cluster.status()
        assert report.lost == 0, report
        assert report.reconnects == 0
        assert (after["pid"], pids(cluster)) == (before["pid"], workers)
        assert after["version"] == "0.1.10"
        assert after["uptime_s"] > before["uptime_s"]
        assert after["apps"]["web"]["totals"]["requests"] >= report.requests
        assert cluster.roll()["verdict"] == "committed"
        assert cluster.stop() == 0
        assert cluster.leftovers() == {}


def test_the_operator_is_told_the_versions_and_how_long_it_took(cluster: Cluster, installed: Installed) -> None:
    installed.release("9.9.9")
    done = cluster.ctl("upgrade")
    assert done.returncode == 0
    assert re.fullmatch(r"holdfast 0\.1\.0 -> 9\.9\.9, in \d\.\d s\n", done.stdout)
    assert cluster.ctl("version").stdout == "9.9.9\n"
    assert [line for line in cluster.events() if "master.upgraded" in line and "9.9.9" in line]
    recent = cluster.ctl("events").stdout
    assert "master.started" in recent
    assert "master.upgraded" in recent


@pytest.mark.parametrize(
    ("module", "before", "after", "reason"),
    [
        ("master/boot.py", "def preflight(", "def pre flight(", "SyntaxError"),
        ("__init__.py", '"0.1.0"', '"0.0.9"', "holdfast 0.0.9 is installed, which is older than 0.1.0"),
        ("master/record.py", f"VERSION = {record.VERSION}", "VERSION = 0", "can't take over from a newer one"),
        ("master/boot.py", "    print(msgspec.json", "    os._exit(0)  # ", "the new code does not answer"),
        ("master/boot.py", "    record.decode(read_memory(memory))\n", "    while True: pass\n", "within 5 s"),
    ],
)
def test_new_code_that_can_t_go_on_is_refused_with_the_reason(
    installed: Installed, tmp_path: Path, module: str, before: str, after: str, reason: str
) -> None:
    installed.change("master/preflight.py", "PREFLIGHT_TIMEOUT = 15.0", "PREFLIGHT_TIMEOUT = 5.0")
    with installed.cluster(tmp_path, "echo_app:app", "-w", "1") as cluster:
        workers = pids(cluster)
        installed.change(module, before, after)
        done = cluster.ctl("upgrade")
        assert done.returncode == 1
        assert reason in done.stderr
        assert "all goes on as before" in done.stderr
        assert reason in cluster.log
        assert pids(cluster) == workers
        assert cluster.status()["version"] == "0.1.0"
        installed.change(module, after, before)
        assert upgrade(cluster)["verdict"] == "done"


def test_an_upgrade_waits_for_the_end_of_a_roll(installed: Installed, tmp_path: Path) -> None:
    with installed.cluster(tmp_path, "echo_app:app", "-w", "2", "--bake", "1.5") as cluster:
        cluster.kill(signal.SIGUSR2)
        until("a roll", lambda: cluster.app()["state"] == "rolling")
        assert upgrade(cluster)["verdict"] == "done"
        assert cluster.app()["last_roll"]["verdict"] == "committed"
        assert cluster.log.index("roll.committed") < cluster.log.index("master.upgraded")
        assert cluster.ctl("rollback").returncode == 0


def test_who_dies_during_the_exec_is_found_and_its_end_is_known(cluster: Cluster, installed: Installed) -> None:
    victim, survivor = pids(cluster)
    (spawner,) = (pid for pid, title in cluster.processes().items() if "spawner" in title)
    installed.change("master/boot.py", RESUME, SLOW)
    asked = subprocess.Popen([*cluster.ctl_command, "upgrade"], stdout=subprocess.PIPE)
    until("the new code, not yet serving", lambda: b"--resume" in Path(f"/proc/{cluster.pid}/cmdline").read_bytes())
    os.kill(victim, signal.SIGKILL)
    os.kill(spawner, signal.SIGKILL)
    assert asked.wait(20) == 0
    assert asked.stdout is not None
    asked.stdout.close()
    until("two workers", lambda: len([w for w in cluster.workers() if w["state"] == "ready"]) == 2)
    assert survivor in pids(cluster)
    assert victim not in pids(cluster)
    assert re.search(rf"web:\d +{victim} worker.exited +killed by SIGKILL", cluster.log)
    assert "the spawner ended: killed by SIGKILL" in cluster.log
    assert cluster.zombies() == []


def test_a_signal_during_the_exec_is_heard_afterwards(cluster: Cluster, installed: Installed) -> None:
    installed.change("master/boot.py", RESUME, SLOW)
    asked = threading.Thread(target=upgrade, args=[cluster])
    asked.start()
    until("the new code, not yet serving", lambda: b"--resume" in Path(f"/proc/{cluster.pid}/cmdline").read_bytes())
    cluster.kill(signal.SIGUSR2)
    asked.join()
    assert cluster.wait_roll(None)["verdict"] == "committed"


def test_no_line_of_output_is_lost_or_cut(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    with installed.cluster(tmp_path, "talkative:app", "-w", "2") as cluster:
        for _ in range(5):
            upgrade(cluster)
        Path(tmp_path / "enough").touch()
        until("all is said", lambda: cluster.output.count("that was all") == 2)
        lines = re.findall(r"^.*?(\d+) said (\d+) (x+)$", cluster.output, re.MULTILINE)
        for pid in {pid for pid, _number, _rest in lines}:
            told = [(int(number), len(rest)) for who, number, rest in lines if who == pid]
            assert told == [(number, 100 + number % 1000) for number in range(len(told))]
        assert len(lines) > 100
        assert "dropped" not in cluster.log


TALKATIVE = """
import asyncio, os
from echo_app import app as echo

async def talk():
    number = 0
    while not os.path.exists("enough"):
        for _ in range(2):  # so that a pipe holds what is said while a busy machine changes masters
            print(os.getpid(), "said", number, "x" * (100 + number % 1000))
            number += 1
        await asyncio.sleep(0.02)
    print("that was all")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        app.talk = asyncio.create_task(talk())
    await echo(scope, receive, send)
"""


def test_what_was_changed_by_hand_stays_changed(cluster: Cluster) -> None:
    cluster.ctl("scale", "web", "3")
    until("three workers", lambda: len([w for w in cluster.workers() if w["state"] == "ready"]) == 3)
    assert cluster.ctl("stop", "web:2").returncode == 0
    cluster.roll()
    before = cluster.ctl("--json", "rolls").stdout
    upgrade(cluster)
    states = [worker["state"] for worker in cluster.app()["workers"]]
    assert states == ["ready", "stopped", "ready"]
    assert cluster.ctl("--json", "rolls").stdout == before
    assert cluster.ctl("rollback").returncode == 0
    assert cluster.app()["generation"] == 1
    assert cluster.ctl("start", "web:2").returncode == 0


def test_clients_of_the_control_socket_are_answered_and_events_go_on(cluster: Cluster) -> None:
    following = subprocess.Popen([*cluster.ctl_command, "events", "-f"], stdout=subprocess.PIPE, text=True)
    answers: list[bool] = []
    is_done = threading.Event()

    def ask() -> None:
        while not is_done.is_set():
            answers.append(bool(cluster.status()))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(3):
            upgrade(cluster)
        cluster.roll()
        assert following.stdout is not None
        seen: list[str] = []
        while not seen or "roll.committed" not in seen[-1]:
            seen.append(following.stdout.readline())
    finally:
        is_done.set()
        asking.join()
        following.kill()
        following.communicate()
    assert all(answers)
    assert len([line for line in seen if "master.upgraded" in line]) == 3
    assert len(seen) == len(set(seen))


def test_a_worker_that_is_killed_after_an_upgrade_is_replaced_and_counted(cluster: Cluster) -> None:
    ask(cluster.bind, "/hello?1")
    upgrade(cluster)
    victim = pids(cluster)[0]
    os.kill(victim, signal.SIGKILL)
    until("another worker", lambda: victim not in pids(cluster) and len(pids(cluster)) == 2)
    assert cluster.app()["totals"]["requests"] >= 1
    assert cluster.app()["totals"]["restarts"] == 1
    assert re.search(rf"{victim} worker.exited +killed by SIGKILL", cluster.log)


def test_programs_that_keep_failing_to_start_are_waited_for_as_before(cluster: Cluster, tmp_path: Path) -> None:
    Path(tmp_path / "broken").touch()
    os.kill(pids(cluster)[0], signal.SIGKILL)
    until("backoff", lambda: any(w["state"] == "backoff" for w in cluster.app()["workers"]))
    upgrade(cluster)
    Path(tmp_path / "broken").unlink()
    began = time.monotonic()
    until("two workers", lambda: len([w for w in cluster.workers() if w["state"] == "ready"]) == 2)
    assert time.monotonic() - began < 12
