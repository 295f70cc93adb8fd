"""A new release under watch: what a canary may not do, what it costs when it does, and how little it takes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.deeds import told
from tests.processes.load import Load
from tests.processes.releases import Site
from tests.processes.web import ask

BAKE = 2.0
ALWAYS_500 = "RELEASE_OF = app\nasync def app(scope, receive, send):\n    return await (RELEASE_OF if scope['type'] == 'lifespan' else fail)(scope, receive, send)\nasync def fail(scope, receive, send):\n    raise RuntimeError('no such table: users')\n"  # noqa: E501
AFTER_A_SECOND = "async def on_startup(state):\n    asyncio.get_running_loop().call_later(1.0, {})\n"


def generations(cluster: Cluster) -> list[int]:
    return [worker["generation"] for worker in cluster.workers()]


def test_a_release_that_only_fails_is_sent_back_after_a_few_requests_with_its_traceback(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3", bake=BAKE) as cluster:
        before = [worker["pid"] for worker in cluster.workers()]
        with Load(cluster.bind, connections=16, fresh=1.0) as load:
            site.write("bad", after=ALWAYS_500)
            done = cluster.ctl("reload")
            report = load.stop()
        assert done.returncode == 1
        assert "of its answers were errors; the old release's in the same time: 0 of" in done.stdout
        assert "RuntimeError: no such table: users" in done.stdout
        assert 3 <= report.lost_by["5xx"] <= 20
        assert report.lost == report.lost_by["5xx"], report
        assert cluster.app()["last_roll"]["seconds"] < BAKE
        assert [worker["pid"] for worker in cluster.workers()] == before, "no old worker had left"


def test_without_traffic_a_release_that_gets_ready_is_good_enough(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2", bake=0.5) as cluster:
        site.write("bad", after=ALWAYS_500)
        assert cluster.roll()["verdict"] == "committed"


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("lambda: os._exit(9)", "exit code 9"),
        ("lambda: __import__('time').sleep(30)", "stalled: its event loop is blocked for 1."),
        ("lambda: globals().update(held=b'x' * 300_000_000)", "is past max_memory 150 MB"),
    ],
    ids=["crash", "stall", "memory explosion"],
)
def test_a_release_that_goes_wrong_after_a_second_is_sent_back(tmp_path: Path, deed: str, reason: str) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2", "--max-memory", "150M", "--drain-timeout", "0.5", bake=BAKE) as cluster:
        with Load(cluster.bind, connections=4, fresh=1.0, pause_s=0.02, timeout_s=5.0) as load:
            site.write("bad", after=AFTER_A_SECOND.format(deed))
            roll = cluster.roll()
            report = load.stop()
        assert roll["verdict"] == "rolled_back"
        assert reason in roll["reason"]
        assert report.releases["first"] > report.releases.get("bad", 0)
        until("all of the first", lambda: generations(cluster) == [1, 1])
        assert cluster.app()["state"] == "running"
        assert cluster.app()["totals"]["restarts"] == 0, "a canary's death is the roll's to answer, not a crash loop's"


def test_a_release_whose_ready_path_fails_at_the_end_of_the_bake_is_sent_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    unready = "import time\nBEGAN = time.monotonic()\n" + ALWAYS_500.replace(
        "(RELEASE_OF if scope['type'] == 'lifespan' else fail)",
        "(fail if scope['type'] != 'lifespan' and time.monotonic() > BEGAN + 0.5 else RELEASE_OF)",
    )
    with site.cluster("-w", "2", "--ready-path", "/", bake=1.0) as cluster:
        site.write("bad", after=unready)
        roll = cluster.roll()
    assert roll["verdict"] == "rolled_back"
    assert roll["reason"] == "ready_path / answers 500 at the end of the bake"


def test_a_canary_takes_no_more_than_its_share_however_fast_it_answers(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2", "--canary-share", "10%", bake=3.0) as cluster:
        site.write("quick", after="asyncio = type('', (), {'sleep': staticmethod(lambda seconds: asyncio_sleep(0))})\n")
        source = (tmp_path / "app.py").read_text()
        (tmp_path / "app.py").write_text(
            source.replace("import asyncio\n", "import asyncio\nasyncio_sleep = asyncio.sleep\n")
        )
        with Load(cluster.bind, connections=16, fresh=1.0) as load:
            assert cluster.ctl("reload", "--no-wait").returncode == 0
            until("the canary", lambda: told(cluster, "roll.canary"))
            load.window()
            ends = time.monotonic() + 2.0
            until("two seconds of the bake", lambda: time.monotonic() > ends)
            baked = load.window()
            assert told(cluster, "roll.step") == []
        share = baked.releases["quick"] / sum(baked.releases.values())
        assert 0.05 < share < 0.12, baked


def test_of_connections_that_are_all_kept_alive_a_canary_gets_its_share_too_and_none_is_closed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3", bake=2.0) as cluster, Load(cluster.bind, connections=24, fresh=0.0) as load:
        until("all clients at work", lambda: load.snapshot().requests > 1000)
        site.write("second")
        assert cluster.ctl("reload", "--no-wait").returncode == 0
        until("the canary has answered", lambda: load.window().releases.get("second"))
        load.window()
        ends = time.monotonic() + 1.0
        until("a second of the bake", lambda: time.monotonic() > ends)
        baked = load.window()
        assert told(cluster, "roll.step") == []
        assert cluster.wait_roll(None)["verdict"] == "committed"
        report = load.stop()
    assert 0.15 < baked.releases["second"] / baked.ok < 0.3, baked
    assert report.lost == 0, report
    assert report.connects == 24, "no connection was closed"


def test_a_release_that_only_fails_is_found_out_on_connections_that_are_kept_alive(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3", bake=BAKE) as cluster, Load(cluster.bind, connections=24, fresh=0.0) as load:
        until("all clients at work", lambda: load.snapshot().requests > 1000)
        site.write("bad", after=ALWAYS_500)
        roll = cluster.roll()
        until("the canary gone", lambda: len(cluster.app()["workers"]) == 3)
        report = load.stop()
    assert (roll["verdict"], "of its answers were errors" in roll["reason"]) == ("rolled_back", True)
    assert report.lost == report.lost_by["5xx"] <= 30, report
    assert report.connects == 24 + report.lost, "they went back as they were; the client drops one on which it failed"


def test_the_steps_of_a_watched_roll_are_told_in_order(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2", bake=0.3) as cluster:
        site.write("second")
        roll = cluster.roll()
        names = [event["event"] for event in told(cluster) if event["event"].startswith("roll.")]
        assert names == ["roll.started", "roll.canary", "roll.step", "roll.step", "roll.committed"]
        assert 0.3 + 0.15 < roll["seconds"] < 5
        assert ask(cluster.bind).headers["x-release"] == "second"


def test_a_release_that_dies_once_all_of_it_serves_is_not_committed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    deed = "lambda: os._exit(9) if os.path.exists('all') else None"
    with site.cluster("-w", "2", bake=2.0) as cluster:
        site.write("bad", after=AFTER_A_SECOND.format(deed).replace("1.0", "2.6"))
        assert cluster.ctl("reload", "--no-wait").returncode == 0
        until("all of the second", lambda: generations(cluster) == [2, 2])
        (tmp_path / "all").touch()
        roll = cluster.wait_roll(None)
        assert (roll["verdict"], roll["reason"]) == ("rolled_back", "exit code 9")
        until("all of the first", lambda: generations(cluster) == [1, 1])
        assert ask(cluster.bind).headers["x-release"] == "first"
