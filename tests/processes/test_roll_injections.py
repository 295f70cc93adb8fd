"""Every disturbance at every step of real rolls: each roll has its verdict, and the cluster is whole after it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.releases import Site

WORKERS = 3
SLOW_IMPORT = "import time\ntime.sleep(0.3)"
SLOW_STARTUP = "async def on_startup(state):\n    await asyncio.sleep(0.3)\n"
BAKE = 0.8


class Roll:
    """One roll to be disturbed: from `base` to `target`, in a cluster of three workers that all take their time."""

    def __init__(self, cluster: Cluster, site: Site) -> None:
        self.cluster = cluster
        self.site = site
        last = cluster.app()["last_roll"]
        self.base: int = cluster.app()["generation"]
        self.target: int = max(self.base, last["to"] if last else 0) + 1
        self.number: int = last["number"] if last else 0
        self.wanted = WORKERS

    def begin(self) -> None:
        self.site.write(f"release {self.target}", before=SLOW_IMPORT, after=SLOW_STARTUP)
        self.cluster.kill(signal.SIGUSR2)
        until("the roll begun", lambda: (self.cluster.app()["last_roll"] or {}).get("number", 0) > self.number)

    def of(self, generation: int, *states: str) -> list[dict[str, Any]]:
        """Its workers in one of these states."""
        return [w for w in self.cluster.workers() if w["generation"] == generation and w["state"] in states]

    def kill_worker(self, generation: int) -> None:
        victim = until("a worker to kill", lambda: self.of(generation, "ready", "starting"))[-1]
        os.kill(victim["pid"], signal.SIGKILL)

    def kill_spawner(self, generation: int) -> None:
        names = (f"holdfast: web g{generation} spawner", f"holdfast: web g{generation} importing")
        found = [pid for pid, title in self.cluster.processes().items() if title in names]
        os.kill(found[0], signal.SIGKILL)

    def ctl(self, *words: str) -> None:
        done = self.cluster.ctl(*words)
        assert done.returncode == 0, (words, done)

    def is_whole(self) -> bool:
        """Every wanted slot is served by one worker of the committed release, and nothing is left of any other."""
        app = self.cluster.app()
        serving = [(worker["slot"], worker["generation"], worker["state"]) for worker in app["workers"]]
        return app["state"] == "running" and serving == [
            (slot, app["generation"], "ready") for slot in range(1, self.wanted + 1)
        ]


def importing(roll: Roll) -> None:
    roll.begin()
    until("the import", lambda: f"holdfast: web g{roll.target} importing" in roll.cluster.processes().values())


def booting(roll: Roll) -> None:
    roll.begin()
    until("the canary on its way", lambda: roll.of(roll.target, "starting"))


def baking(roll: Roll) -> None:
    roll.begin()
    until("the canary", lambda: roll.of(roll.target, "ready"))


def rolling(roll: Roll) -> None:
    baking(roll)
    until("the second one on its way", lambda: roll.of(roll.target, "starting"))


def settling(roll: Roll) -> None:
    rolling(roll)
    until("all of the new release", lambda: len(roll.of(roll.target, "ready")) == WORKERS)


def rolling_back(roll: Roll) -> None:
    settling(roll)
    roll.kill_worker(roll.target)
    until("the first one on its way back", lambda: roll.of(roll.base, "starting"))


STEPS = (importing, booting, baking, rolling, settling, rolling_back)


def an_old_worker_dies(roll: Roll) -> None:
    if roll.of(roll.base, "ready", "starting"):
        roll.kill_worker(roll.base)


def a_new_worker_dies(roll: Roll) -> None:
    roll.kill_worker(roll.target)


def the_old_spawner_dies(roll: Roll) -> None:
    roll.kill_spawner(roll.base)


def the_new_spawner_dies(roll: Roll) -> None:
    roll.kill_spawner(roll.target)


def one_more_is_wanted(roll: Roll) -> None:
    roll.ctl("scale", "web", "+1")
    roll.wanted += 1


def one_less_is_wanted(roll: Roll) -> None:
    roll.ctl("scale", "web", "-1")
    roll.wanted -= 1


def the_first_slot_is_stopped_and_started(roll: Roll) -> None:
    roll.ctl("stop", "web:1")
    roll.ctl("start", "web:1")


def a_newer_release_comes(roll: Roll) -> None:
    roll.site.write("newer", before=SLOW_IMPORT, after=SLOW_STARTUP)
    roll.cluster.kill(signal.SIGUSR2)
    until("the newer roll", lambda: roll.cluster.app()["last_roll"]["number"] > roll.number + 1)


def the_app_is_stopped_and_started(roll: Roll) -> None:
    roll.ctl("stop", "web")
    roll.ctl("start", "web")


FATAL: dict[Callable[[Roll], None], str] = {
    a_new_worker_dies: "killed by SIGKILL",
    the_new_spawner_dies: "the spawner ended: killed by SIGKILL",
    the_app_is_stopped_and_started: "the app was stopped",
}
HARMLESS = (
    an_old_worker_dies,
    the_old_spawner_dies,
    one_more_is_wanted,
    one_less_is_wanted,
    the_first_slot_is_stopped_and_started,
    a_newer_release_comes,
)
NOT_THERE_YET = {(importing, a_new_worker_dies)}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_whatever_happens_at_this_step_the_roll_has_its_verdict_and_the_cluster_is_whole(
    tmp_path: Path, step: Callable[[Roll], None]
) -> None:
    site = Site(tmp_path)
    site.write("first", after=SLOW_STARTUP)
    with site.cluster("-w", str(WORKERS), "--drain-timeout", "2", bake=BAKE) as cluster:
        for deed in (*FATAL, *HARMLESS):
            if (step, deed) in NOT_THERE_YET:
                continue
            roll = Roll(cluster, site)
            step(roll)
            deed(roll)
            check(roll, step, deed)
            cluster.ctl("scale", "web", str(WORKERS))
            roll.wanted = WORKERS
            until(f"whole again after {deed.__name__}", roll.is_whole)
        assert cluster.zombies() == []
        assert "Traceback" not in cluster.log


def check(roll: Roll, step: Callable[[Roll], None], deed: Callable[[Roll], None]) -> None:
    """The verdict is the one that the step and the deed call for."""

    def decided() -> dict[str, Any] | None:
        found: dict[str, Any] = roll.cluster.app()["last_roll"]
        return found if found["number"] > roll.number and found["verdict"] != "running" else None

    verdict = until(f"a verdict after {deed.__name__}", decided)
    assert verdict is not None
    until(f"whole after {deed.__name__}", roll.is_whole)
    if deed is a_newer_release_comes:
        assert (verdict["number"], verdict["verdict"]) == (roll.number + 2, "committed")
        assert f"superseded by generation {verdict['to']}" in roll.cluster.log
    elif step is rolling_back:
        assert verdict["verdict"] == "rolled_back"
        assert verdict["reason"].startswith("killed by SIGKILL, sent by "), "the first reason is the one that counts"
    elif deed in FATAL:
        assert verdict["verdict"] == "rolled_back", deed
        assert FATAL[deed] in verdict["reason"]
    else:
        assert (verdict["verdict"], verdict["to"]) == ("committed", roll.target), (deed, verdict)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=["TERM", "QUIT"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_stop_at_this_step_leaves_nothing_behind(tmp_path: Path, step: Callable[[Roll], None], number: int) -> None:
    site = Site(tmp_path)
    site.write("first", after=SLOW_STARTUP)
    with site.cluster("-w", str(WORKERS), bake=BAKE) as cluster:
        step(Roll(cluster, site))
        cluster.kill(number)
        assert cluster.wait_exit() == 0
        assert cluster.leftovers() == {}
