"""Rolls that are disturbed: overtaken, scaled, stopped, or with a process of theirs killed; none ends half-way."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.load import Load
from tests.processes.releases import HANGS, SLOW_START, Site, web_settings
from tests.processes.web import ask


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
        until("an answer of the third", lambda: "good" in load.snapshot().releases)
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
    with site.configured(web_settings(workers=1)) as cluster:
        site.settings(web_settings(cluster.bind, workers=3))
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
    with site.configured(web_settings(workers=2)) as cluster:
        site.settings(web_settings(cluster.bind, workers=4))
        decided = rolling(cluster, site)
        assert cluster.ctl("stop", "web:2").returncode == 0
        until("the verdict", decided)
        assert [(w["slot"], w["generation"]) for w in cluster.workers()] == [(1, 2), (3, 2), (4, 2)]


def test_a_roll_that_grows_and_fails_takes_its_extra_workers_away(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(web_settings()) as cluster:
        site.settings(web_settings(cluster.bind, workers=4))
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
        assert roll["verdict"] == "rolled_back"
        assert roll["reason"].startswith("killed by SIGKILL, sent by ")
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
        assert cluster.ctl("rollback").returncode == 1, "its successor has imported what may be newer"


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


BROKEN = ("raise OSError('no')", HANGS, "x = (", "import os\nos._exit(1)")


@pytest.mark.parametrize("seed", [1, 2])
def test_rolls_at_random_moments_to_good_and_bad_releases_lose_nothing_and_end_in_the_last(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    site = Site(tmp_path)
    with site.configured(web_settings(preload=chance.choice(["auto", "off"]))) as cluster:
        with Load(cluster.bind, connections=12, pause_s=0.01) as load:
            for number in range(20):
                before, after = chance.choice([(chance.choice(BROKEN), ""), ("", SLOW_START), ("", ""), ("", "")])
                site.write(f"release {number}", before=before, after=after)
                workers, surge = chance.randint(1, 4), chance.randint(1, 2)
                site.settings(web_settings(cluster.bind, workers=workers, surge=surge, boot_timeout=5.0))
                cluster.kill(signal.SIGUSR2)
                moment = time.monotonic() + chance.random() * 0.25
                until("its moment is over", lambda moment=moment: time.monotonic() > moment)  # type: ignore[misc]
            site.write("last")
            site.settings(web_settings(cluster.bind, workers=3))
            assert cluster.ctl("reload").returncode == 0
            until("an answer of the last", lambda: "last" in load.snapshot().releases)
            report = load.stop()
        assert report.lost == 0, report
        assert [(w["slot"], w["state"]) for w in cluster.workers()] == [(1, "ready"), (2, "ready"), (3, "ready")]
        until("nothing else is left but a spawner for a rollback", lambda: len(cluster.processes()) in (5, 6))
        until("no zombies", lambda: cluster.zombies() == [])
        assert cluster.app()["totals"]["lost"] == 0
