"""What a cluster's processes are and look like from outside: master, spawner, workers, and the memory they share."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.processes.cluster import Cluster, until
from tests.processes.releases import SLOW_START, Site
from tests.processes.web import ask, dial


def titled(cluster: Cluster, title: str) -> int:
    """The one process with this title."""
    (found,) = [pid for pid, known in cluster.processes().items() if known == title]
    return found


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def stack_of(pid: int) -> str:
    """Where its main stack lies: random from exec to exec, and the same after a fork."""
    (line,) = [line for line in maps(pid).splitlines() if line.endswith("[stack]")]
    return line.split()[0].partition("-")[2]


def test_the_master_never_imports_the_app_nor_what_serves_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write("first", before="import _sqlite3")
    with site.cluster("-w", "2") as cluster:
        assert ask(cluster.bind).status == 200
        assert cluster.roll()["verdict"] == "committed"
        assert cluster.pid not in site.imports()
        assert "_sqlite3" in maps(titled(cluster, "holdfast: web g2 spawner"))
        for name in ("_sqlite3", "uvloop", "zttp"):
            assert name not in maps(cluster.pid)


def test_each_release_has_a_spawner_of_its_own_that_was_execd(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "1", "--keep-previous", "off") as cluster:
        first = titled(cluster, "holdfast: web g1 spawner")
        stacks = {stack_of(cluster.pid), stack_of(first)}
        assert cluster.roll()["verdict"] == "committed"
        second = titled(cluster, "holdfast: web g2 spawner")
        assert second != first
        stacks.add(stack_of(second))
        assert len(stacks) == 3, "three processes that were exec'd"
        assert stack_of(cluster.workers()[0]["pid"]) == stack_of(second), "the worker is forked from its spawner"
        until("the old spawner gone", lambda: first not in cluster.processes())


def test_the_master_is_the_parent_of_all_workers_and_reaps_them(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "3") as cluster:
        assert ask(cluster.bind, "/about").json()["parent"] == cluster.pid
        for worker in cluster.workers():
            assert f"PPid:\t{cluster.pid}\n" in Path(f"/proc/{worker['pid']}/status").read_text()
            os.kill(worker["pid"], signal.SIGKILL)
        until("all replaced", lambda: [w["restarts"] for w in cluster.workers()] == [1, 1, 1])
        until("no zombies", lambda: cluster.zombies() == [])


def test_the_board_is_memory_shared_by_the_master_and_its_workers(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "1") as cluster:
        pattern = re.compile(r"\S+ rw-s \S+ \S+ (\d+) +/memfd:holdfast-board-web ")
        pid = cluster.workers()[0]["pid"]
        inodes = [pattern.findall(maps(each)) for each in (cluster.pid, pid)]
        assert inodes[0] == inodes[1] != []
        os.kill(pid, signal.SIGSTOP)  # the master needs no answer from a worker to know how it is
        assert cluster.workers()[0]["state"] == "ready"
        os.kill(pid, signal.SIGCONT)


def test_process_titles_tell_app_generation_slot_and_state(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1", "--max-inflight", "1") as cluster:
        assert set(cluster.processes().values()) == {
            "holdfast: master",
            "holdfast: web g1 spawner",
            "holdfast: web g1 w1 ready",
        }
        busy = dial(cluster.bind)
        busy.sendall(b"GET /sleep?3 HTTP/1.1\r\nHost: x\r\n\r\n")
        until("it is busy", lambda: cluster.workers()[0]["inflight"] == 1)
        waiting = dial(cluster.bind)
        until("it is saturated", lambda: "holdfast: web g1 w1 saturated" in cluster.processes().values())
        site.write("second", before="import time\ntime.sleep(0.3)", after=SLOW_START)
        cluster.kill(signal.SIGUSR2)
        for title in ("g2 importing", "g2 w1 starting", "g1 w1 draining", "g2 w1 ready"):
            until(title, lambda title=title: f"holdfast: web {title}" in cluster.processes().values())  # type: ignore[misc]
        busy.close()
        waiting.close()


# Preload


def test_preload_on_imports_once_in_the_spawner(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3", "--preload", "on") as cluster:
        assert site.imports() == [titled(cluster, "holdfast: web g1 spawner")]


def test_preload_off_imports_in_each_worker(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3", "--preload", "off") as cluster:
        assert sorted(site.imports()) == sorted(worker["pid"] for worker in cluster.workers())
        about = ask(cluster.bind, "/about").json()
        assert about["path"] == str(tmp_path.resolve())


def private_bytes(pid: int) -> int:
    """Memory that the process has written and shares with nobody."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(found) * 1024 for found in re.findall(r"Private_Dirty: +(\d+) kB", text))


def test_preloaded_workers_share_the_apps_memory_even_after_a_collection(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write(
        "first",
        before="heap = [[] for _ in range(600_000)]",  # 40 MB of what the collector looks at
        after="async def on_startup(state):\n    gc.collect()\n",
    )
    with site.cluster("-w", "2", "--preload", "auto") as cluster:
        assert ask(cluster.bind, "/about").json()["frozen"] > 600_000
        for worker in cluster.workers():
            assert worker["rss_bytes"] > 40e6
            assert private_bytes(worker["pid"]) < 15e6


POLLER = "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,), name='poller', daemon=True).start()"


def test_preload_auto_falls_back_to_off_when_the_import_leaves_threads_running_and_names_them(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write("first", before=POLLER)
    with site.cluster("-w", "2", "--preload", "auto") as cluster:
        (warning,) = cluster.warnings()
        assert "not preloaded: the import left threads running (poller)" in warning
        workers = {worker["pid"] for worker in cluster.workers()}
        assert workers < set(site.imports())
        assert "poller" in ask(cluster.bind, "/about").json()["threads"], "each worker has the thread it imported"
        assert len(os.listdir(f"/proc/{titled(cluster, 'holdfast: web g1 spawner')}/task")) == 1
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        assert site.imports("second") == [titled(cluster, "holdfast: web g2 spawner")]


def test_preload_on_forks_all_the_same_and_warns(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write("first", before=POLLER)
    with site.cluster("-w", "1", "--preload", "on") as cluster:
        (warning,) = cluster.warnings()
        assert "left threads running, which a fork does not copy: poller" in warning
        assert ask(cluster.bind, "/about").json()["threads"] == ["MainThread"]


def test_the_fallback_finds_the_app_in_a_relative_chdir_too(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    Site(tmp_path / "inner").write("first", before=POLLER)
    with Cluster(tmp_path, "app:app", "-w", "1", "--chdir", "inner") as cluster:
        about = ask(cluster.bind, "/about").json()
        assert about["cwd"] == about["path"] == str((tmp_path / "inner").resolve())
