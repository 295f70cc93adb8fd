"""Rolls lose no request: fresh or kept-alive, short or long, an upload in progress, and none waits for them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.cluster import until
from tests.processes.load import Load, Report
from tests.processes.releases import Site
from tests.processes.web import Visitor, ask, dial, read_until

GAP = 0.1  # seconds without an answer to anybody that a roll may cost at most


def lost_nothing(report: Report) -> None:
    """Also no gap beyond what the client itself may have caused by not running."""
    assert report.requests > 100, report
    assert report.lost == 0, report
    assert report.longest_gap_s - report.client_stall_s < GAP, report


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    """Twenty rolls in a row under constant load, each to another release."""
    site = Site(tmp_path_factory.mktemp("loaded"))
    with site.cluster("-w", "2") as cluster:
        with Load(cluster.bind, connections=16, fresh=0.4, posts=0.5, pause_s=0.01) as load:
            for number in range(20):
                site.write(f"release {number}")
                assert cluster.roll()["verdict"] == "committed"
            until("an answer of the last", lambda: "release 19" in load.snapshot().releases)
            report = load.stop()
        assert cluster.app()["totals"]["lost"] == 0
        until("no zombies", lambda: cluster.zombies() == [])
        yield report


def test_twenty_rolls_in_a_row_under_load_lose_not_one_request(loaded: Report) -> None:
    assert loaded.requests == loaded.ok > 1000, loaded
    assert len(loaded.releases) == 21, "every release has served"


def test_the_longest_time_without_an_answer_stays_below_100_ms(loaded: Report) -> None:
    lost_nothing(loaded)


@pytest.mark.parametrize("preload", ["auto", "off"])
def test_an_app_that_takes_3_s_to_import_rolls_as_smoothly(tmp_path: Path, preload: str) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2", "--preload", preload) as cluster:
        site.write("slow", before="import time\ntime.sleep(3)")
        with Load(cluster.bind, connections=16, fresh=0.4, pause_s=0.01) as load:
            verdict = cluster.roll()
            until("an answer of the new release", lambda: "slow" in load.snapshot().releases)
            report = load.stop()
        assert verdict["verdict"] == "committed"
        assert verdict["seconds"] > 3
        assert set(report.releases) == {"first", "slow"}
        lost_nothing(report)


def test_a_long_answer_and_an_upload_in_progress_are_finished_by_the_old_worker(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1") as cluster:
        uploading, waiting = Visitor(cluster.bind), Visitor(cluster.bind)
        uploading.connect()
        uploading.sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        waiting.connect()
        waiting.sock.sendall(b"GET /sleep?1 HTTP/1.1\r\nHost: x\r\n\r\n")
        until("both requests taken", lambda: cluster.workers()[0]["inflight"] == 2)
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        assert {ask(cluster.bind).headers["x-release"] for _ in range(3)} == {"second"}
        uploading.sock.sendall(b"def")
        for visitor, body in ((uploading, b"abcdef"), (waiting, b"1")):
            head, _, found = read_until(visitor.sock, b"\r\n\r\n" + body).partition(b"\r\n\r\n")
            assert found == body
            assert b"x-release: first" in head
            assert b"connection: close" not in head.lower()
            assert visitor.ask().headers["x-release"] == "second", "on the same connection"
            visitor.close()
        until("the old worker gone", lambda: len(cluster.app()["workers"]) == 1)
        assert cluster.app()["totals"]["lost"] == 0


def test_a_kept_alive_connection_that_is_idle_during_a_roll_goes_on_with_the_new_release(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1") as cluster:
        visitor = Visitor(cluster.bind)
        assert visitor.ask().headers["x-release"] == "first"
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        before = visitor.sock
        answer = visitor.ask("/?hello")
        assert (answer.status, answer.text) == (200, "hello")
        assert answer.headers["x-release"] == "second"
        assert visitor.sock is before
        visitor.close()


def test_a_request_that_outlasts_drain_timeout_is_cut_and_counted_as_lost(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1", "--drain-timeout", "0.3") as cluster:
        with dial(cluster.bind) as client:
            client.sendall(b"GET /sleep?60 HTTP/1.1\r\nHost: x\r\n\r\n")
            until("it is under way", lambda: cluster.workers()[0]["inflight"] == 1)
            assert cluster.roll()["verdict"] == "committed"
            assert is_ended(client)
        until("it is counted", lambda: cluster.app()["totals"]["lost"] == 1)
        until("it is told", lambda: "left, drained, 1 request lost with it" in cluster.log)


def is_ended(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True
