"""Single workers stopped and started by hand: what is stopped can be started, and rolls pass it by."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.releases import Site, web_settings
from tests.processes.web import ask


def slots(cluster: Cluster) -> list[int]:
    """The slots that are served."""
    return [worker["slot"] for worker in cluster.workers() if worker["state"] == "ready"]


def done(cluster: Cluster, *arguments: str) -> None:
    """The command was obeyed."""
    result = cluster.ctl(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr


def test_stopping_the_last_worker_stops_the_app_and_starting_it_starts_the_app(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "1") as cluster:
        done(cluster, "stop", "web:1")
        assert cluster.app()["state"] == "stopped"
        with pytest.raises(ConnectionRefusedError):
            ask(cluster.bind)
        assert cluster.ctl("reload").returncode == 1
        done(cluster, "start", "web:1")
        assert ask(cluster.bind).status == 200
        assert cluster.roll()["verdict"] == "committed"


def test_starting_one_worker_of_a_stopped_app_starts_no_other(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "3") as cluster:
        done(cluster, "stop", "web")
        done(cluster, "start", "web:2")
        assert slots(cluster) == [2]
        done(cluster, "start", "web")
        assert slots(cluster) == [1, 2, 3]
        refused = cluster.ctl("start", "web")
        assert (refused.returncode, refused.stderr.strip().endswith("web is running")) == (1, True)


def test_a_roll_passes_by_what_was_stopped_by_hand_and_a_start_brings_it_in_the_new_release(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2") as cluster:
        done(cluster, "stop", "web:1")
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        assert slots(cluster) == [2]
        done(cluster, "start", "web:1")
        assert slots(cluster) == [1, 2]
        assert {worker["generation"] for worker in cluster.workers()} == {2}


def test_an_app_left_with_stopped_slots_alone_can_be_started_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(web_settings(workers=2)) as cluster:
        done(cluster, "stop", "web:1")
        site.settings(web_settings(cluster.bind, workers=1))
        cluster.kill(signal.SIGUSR2)
        until("nobody is left", lambda: slots(cluster) == [])
        done(cluster, "start", "web")
        assert ask(cluster.bind).status == 200


def test_a_stopped_worker_that_a_roll_takes_away_is_not_missing_when_the_next_one_grows(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(web_settings(workers=2)) as cluster:
        done(cluster, "stop", "web:2")
        for workers, served in ((1, [1]), (3, [1, 2, 3])):
            site.settings(web_settings(cluster.bind, workers=workers))
            assert cluster.roll()["verdict"] == "committed"
            assert slots(cluster) == served
