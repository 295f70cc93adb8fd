"""Going back to the release before: from its kept spawner, without an import, losing nothing; and when it can't be."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.processes.cluster import Cluster, free_port, until
from tests.processes.load import Load
from tests.processes.releases import Site, web_settings
from tests.processes.web import ask, dial, read_until


def serving(cluster: Cluster) -> str:
    return ask(cluster.bind).headers["x-release"]


def kept_spawner(cluster: Cluster, generation: int) -> int | None:
    titles = cluster.processes().items()
    return next((pid for pid, title in titles if title == f"holdfast: web g{generation} spawner"), None)


def test_a_rollback_returns_to_the_release_before_without_an_import_and_loses_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2") as cluster:
        site.write("second", before="import time\ntime.sleep(1)")
        assert cluster.roll()["verdict"] == "committed"
        imports = site.imports()
        with Load(cluster.bind, connections=8) as load:
            until("answers of the second", lambda: load.snapshot().releases)
            done = cluster.ctl("rollback", "web")
            until("answers of the first", lambda: load.snapshot().releases.get("first"))
            report = load.stop()
        assert done.returncode == 0, done
        assert "generation 1 committed in 0." in done.stdout
        assert report.lost == 0, report
        assert site.imports() == imports
        app = cluster.app()
        assert app["generation"] == 1
        assert (app["last_roll"]["from"], app["last_roll"]["to"]) == (2, 1)
        assert [worker["generation"] for worker in cluster.workers()] == [1, 1]


def test_a_rollback_of_a_rollback_returns_to_where_it_came_from_and_the_next_release_is_a_new_one(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1") as cluster:
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        for expected in ("first", "second", "first"):
            assert cluster.ctl("rollback").returncode == 0
            assert serving(cluster) == expected
        site.write("third")
        done = cluster.ctl("--json", "reload")
        told = json.loads(done.stdout)["apps"]["web"]
        assert (told["from"], told["to"], told["verdict"], told["number"]) == (1, 3, "committed", 5)
        assert cluster.ctl("rollback").returncode == 0
        assert serving(cluster) == "first"
        until("two spawners", lambda: kept_spawner(cluster, 3) and kept_spawner(cluster, 1))
        assert kept_spawner(cluster, 2) is None


def test_without_a_release_before_a_rollback_is_refused(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "1") as cluster:
        done = cluster.ctl("rollback", "web")
        assert (done.returncode, done.stderr) == (
            1,
            "holdfastctl: web: there was no release before this one\n",
        )
        assert cluster.ctl("rollback").returncode == 1
        assert cluster.ctl("rollback", "wbe").returncode == 1


def test_a_release_that_is_not_to_be_kept_leaves_no_spawner_behind(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1", "--keep-previous", "off") as cluster:
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        until("one spawner", lambda: kept_spawner(cluster, 1) is None)
        done = cluster.ctl("rollback", "web")
        assert done.returncode == 1
        assert "no release is kept at hand (keep_previous = false)" in done.stderr


def test_a_release_that_was_not_preloaded_is_not_kept_for_its_workers_would_import_what_lies_there_now(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1", "--preload", "off") as cluster:
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        done = cluster.ctl("rollback", "web")
        assert done.returncode == 1
        assert "nothing is left of generation 1: it was not preloaded" in done.stderr


def test_a_release_whose_sockets_are_closed_is_not_kept_and_does_not_keep_them_open(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(web_settings()) as cluster:
        old, cluster.bind = cluster.bind, f"127.0.0.1:{free_port()}"
        site.settings(web_settings(cluster.bind))
        assert cluster.roll()["verdict"] == "committed"
        assert f"generation 1 listened on {old}, too" in cluster.ctl("rollback", "web").stderr
        until("the old socket closed", lambda: is_closed(old))


def is_closed(address: str) -> bool:
    try:
        ask(address)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def test_a_kept_spawner_that_dies_is_not_replaced_for_it_would_import_the_new_code(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1") as cluster:
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        kept = kept_spawner(cluster, 1)
        assert kept is not None
        os.kill(kept, signal.SIGKILL)
        until("it is known", lambda: cluster.ctl("rollback", "web").returncode == 1)
        done = cluster.ctl("rollback", "web")
        assert "generation 1 is not at hand any more: the spawner ended: killed by SIGKILL" in done.stderr
        until("one spawner, one worker, the master", lambda: len(cluster.processes()) == 3)
        assert serving(cluster) == "second"
        site.write("third")
        assert cluster.roll()["verdict"] == "committed"
        assert cluster.ctl("rollback").returncode == 0
        assert serving(cluster) == "second"


def test_a_release_that_fails_leaves_the_one_before_the_last_at_hand(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1") as cluster:
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        site.write("bad", before="raise OSError('no')")
        assert cluster.roll()["verdict"] == "rolled_back"
        assert cluster.ctl("rollback").returncode == 0
        assert serving(cluster) == "first"


def test_a_rollback_during_a_roll_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1", bake=30) as cluster:
        site.write("second")
        assert cluster.ctl("reload", "--no-wait").returncode == 0
        until("the canary", lambda: len(cluster.workers()) == 2)
        done = cluster.ctl("rollback", "web")
        assert (done.returncode, done.stderr) == (
            1,
            "holdfastctl: web is rolling to generation 2; wait for its verdict\n",
        )


def test_the_rolls_are_listed_with_their_ledgers(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2") as cluster, Load(cluster.bind, connections=8) as load:
        for number in range(22):
            site.write(f"release {number}", before="" if number % 2 else "raise OSError('no')")
            cluster.roll()
        report = load.stop()
        rolls = json.loads(cluster.ctl("--json", "rolls").stdout)["apps"]["web"]
        until("nobody leaves any more", lambda: len(cluster.app()["workers"]) == 2)
        settled = json.loads(cluster.ctl("--json", "rolls").stdout)["apps"]["web"]
        metrics = scraped(cluster)
    assert report.lost == 0, report
    assert [roll["number"] for roll in rolls] == list(range(3, 23)), "the last twenty"
    assert [roll["verdict"] for roll in rolls] == ["rolled_back", "committed"] * 10
    for name in ("committed", "rolled_back"):
        assert f'holdfast_rolls_{name}_total{{app="web"}} 11' in metrics
    for roll in settled:
        ledger = roll["ledger"]
        assert ledger["accepted"] == ledger["completed"], "nothing is under way in who has left, and nothing was lost"
        assert ledger["cut"] == ledger["reset"] == ledger["under_way"] == 0
    assert 0 < sum(roll["ledger"]["completed"] for roll in settled) <= report.requests


def scraped(cluster: Cluster) -> str:
    with dial(f"unix:{cluster.control}") as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: .\r\nConnection: close\r\n\r\n")
        return read_until(client, b"no such thing").decode()
