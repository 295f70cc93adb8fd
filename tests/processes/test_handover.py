"""Connections that outlive their workers, in rolls, restarts, recycling and deaths, as their clients see it."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.load import Load, Report
from tests.processes.releases import Site
from tests.processes.web import dial, read_until

GONE = "gone"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
FAILS_SECOND = """
async def on_startup(state):
    try:
        open("one_is_up", "x").close()
    except FileExistsError:
        raise RuntimeError("one is enough") from None
"""
STREAMS = """
import json

async def stream(scope, receive, send):
    draining = scope["extensions"]["holdfast"]["draining"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-release", RELEASE.encode())]})
    await send({"type": "http.response.body", "body": b"begun\\n", "more_body": True})
    await draining.wait()
    await send({"type": "http.response.body", "body": b"the end\\n"})

plain = app

async def app(scope, receive, send):
    await (stream if scope.get("path") == "/stream" else plain)(scope, receive, send)
"""


STOPS_WHEN_READY = """
import signal

async def on_startup(state):
    try:
        open("stopped", "x").close()
    except FileExistsError:
        return
    asyncio.get_running_loop().call_soon(stop_when_ready)

def stop_when_ready():
    with open("/proc/self/cmdline") as title:
        if "ready" in title.read():
            os.kill(os.getpid(), signal.SIGSTOP)  # before it has heard from the master what to take
            return
    asyncio.get_running_loop().call_soon(stop_when_ready)
"""


def kept(report: Report, connections: int) -> None:
    """Each client has used one connection, all through."""
    assert report.lost == 0, report
    assert report.requests == report.ok
    assert (report.connects, report.closed_politely, report.closed_idle) == (connections, 0, 0), report


def test_a_thousand_kept_alive_clients_keep_their_connections_through_ten_rolls(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "2") as cluster:
        with Load(cluster.bind, connections=1000, fresh=0.0, posts=0.3, pause_s=0.5, all_rest=True) as load:
            until("all connected", lambda: load.snapshot().connects == 1000)
            for number in range(10):
                site.write(f"release {number}")
                assert cluster.roll()["verdict"] == "committed"
            until("an answer of the last", lambda: "release 9" in load.snapshot().releases)
            report = load.stop()
        kept(report, 1000)
        assert len(report.releases) == 11, "every release has served"
        assert cluster.app()["totals"]["lost"] == 0
        until("the old workers gone", lambda: len(cluster.app()["workers"]) == 2)
        assert "Traceback" not in cluster.log


@contextlib.contextmanager
def idlers(cluster: Cluster, count: int) -> Iterator[list[socket.socket]]:
    """Connections that have had an answer each."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(dial(cluster.bind)) for _ in range(count)]
        assert GONE not in asked(socks)
        yield socks


def asked(socks: list[socket.socket]) -> list[str]:
    """The releases that answer a request on each; GONE where the connection has ended."""
    for sock in socks:
        with contextlib.suppress(OSError):
            sock.sendall(GET)
    return [release_in(sock) for sock in socks]


def release_in(sock: socket.socket) -> str:
    try:
        head = read_until(sock, b"\r\n\r\n")
    except ConnectionError:
        head = b""
    if not head:
        return GONE
    assert head.startswith(b"HTTP/1.1 200"), head
    assert b"connection: close" not in head.lower()
    (line,) = (line for line in head.split(b"\r\n") if line.startswith(b"x-release: "))
    return line.decode().removeprefix("x-release: ")


def generations(cluster: Cluster) -> set[int]:
    return {worker["generation"] for worker in cluster.app()["workers"]}


def connections(cluster: Cluster) -> list[int]:
    """How many each worker has; of one that leaves, too."""
    return [worker["connections"] for worker in cluster.app().get("workers", [])]


def test_idle_connections_go_to_the_new_release_and_the_old_workers_do_not_stay_for_them(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3") as cluster, idlers(cluster, 300) as socks:
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        until("the old workers gone", lambda: generations(cluster) == {2}, 2.0)
        until("all taken", lambda: sum(connections(cluster)) == 300)
        assert set(asked(socks)) == {"second"}


def test_a_worker_that_has_no_descriptor_left_leaves_all_the_same(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1") as cluster:
        (worker,) = cluster.workers()
        full = len(os.listdir(f"/proc/{worker['pid']}/fd"))
        resource.prlimit(worker["pid"], resource.RLIMIT_NOFILE, (full, full))
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        until("the old worker gone", lambda: generations(cluster) == {2}, 2.0)
        assert "Traceback" not in cluster.log


def test_a_stream_may_finish_and_then_its_connection_moves(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write("first", after=STREAMS)
    with site.cluster("-w", "1") as cluster, dial(cluster.bind) as sock:
        sock.sendall(GET.replace(b"/ ", b"/stream "))
        assert b"x-release: first" in read_until(sock, b"begun\n")
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        read_until(sock, b"the end\n\r\n0\r\n\r\n")
        assert asked([sock]) == ["second"]
        until("the old worker gone", lambda: generations(cluster) == {2}, 2.0)
        assert cluster.app()["totals"]["lost"] == 0


def test_a_restarted_worker_s_connections_go_on_with_the_others(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "2") as cluster, idlers(cluster, 100) as socks:
        pids = {worker["pid"] for worker in cluster.workers()}
        for slot in (1, 2):
            assert cluster.ctl("restart", f"web:{slot}").returncode == 0
        until("both replaced", lambda: not pids & {worker["pid"] for worker in cluster.app()["workers"]})
        assert asked(socks) == ["first"] * 100


def test_fewer_workers_take_over_the_connections_of_those_that_go(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "3") as cluster, idlers(cluster, 90) as socks:
        assert cluster.ctl("scale", "web", "1").returncode == 0
        until("one is left", lambda: len(cluster.app()["workers"]) == 1)
        assert asked(socks) == ["first"] * 90
        assert cluster.ctl("scale", "web", "2").returncode == 0
        assert cluster.ctl("stop", "web:1").returncode == 0
        until("the other one is left", lambda: sorted(connections(cluster)) == [0, 90])
        assert asked(socks) == ["first"] * 90


def test_recycling_by_max_requests_closes_no_connection(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "2", "--max-requests", "400") as cluster:
        with Load(cluster.bind, connections=20, fresh=0.0, pause_s=0.01, all_rest=True) as load:
            until("a few recycled", lambda: cluster.log.count("worker.recycled") >= 4, 40.0)
            report = load.stop()
        kept(report, 20)
        assert cluster.app()["totals"]["lost"] == 0


def test_a_roll_that_goes_back_takes_the_connections_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "3") as cluster, idlers(cluster, 90) as socks:
        site.write("second", after=FAILS_SECOND)
        assert cluster.roll()["verdict"] == "rolled_back"
        until("all on the old release", lambda: generations(cluster) == {1} and sum(connections(cluster)) == 90)
        assert asked(socks) == ["first"] * 90


def test_connections_of_a_unix_socket_move(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1", bind=f"unix:{tmp_path}/web.sock") as cluster, idlers(cluster, 20) as socks:
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        assert asked(socks) == ["second"] * 20


def test_thousands_of_idle_connections_move_without_a_stall(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1") as cluster, idlers(cluster, 4000) as socks:
        site.write("second")
        assert cluster.roll()["verdict"] == "committed"
        until("all taken", lambda: connections(cluster) == [4000])
        assert cluster.workers()[0]["lag_max_ms"] < 1000  # on a machine that does much else at the same time
        assert set(asked(socks)) == {"second"}


# A stop


def test_a_stop_in_the_midst_of_a_hand_over_ends_every_connection_as_a_stop_does(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1", "--idle-linger", "0.5") as cluster, idlers(cluster, 500) as socks:
        site.write("second")
        cluster.kill(signal.SIGUSR2)
        until("the new worker there", lambda: any(w["generation"] == 2 for w in cluster.app()["workers"]))
        cluster.kill(signal.SIGTERM)
        for sock in socks:
            sock.sendall(GET)
        assert all(read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200") for sock in socks)
        for sock in socks:
            sock.close()
        assert cluster.wait_exit(5.0) == 0
        assert cluster.leftovers() == {}
        assert "lost with it" not in cluster.log


def test_after_a_kill_of_the_master_in_a_hand_over_nothing_stays(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.cluster("-w", "1", "--drain-timeout", "2", "--orphan-grace", "0") as cluster, idlers(cluster, 200):
        site.write("second")
        cluster.kill(signal.SIGUSR2)
        until("the new worker there", lambda: any(w["generation"] == 2 for w in cluster.app()["workers"]))
        cluster.kill(signal.SIGKILL)
        cluster.wait_exit()
        until("every process gone", lambda: cluster.processes() == {}, 4.0)


# Deaths


@pytest.mark.parametrize("seed", range(5))
def test_a_taker_s_death_costs_what_it_has_taken_and_the_rest_is_served(tmp_path: Path, seed: int) -> None:
    count, chance = 1000, random.Random(seed)
    site = Site(tmp_path)
    with site.cluster("-w", "1") as cluster, idlers(cluster, count) as socks:
        old = cluster.workers()[0]["pid"]
        site.write("second")
        cluster.kill(signal.SIGUSR2)
        until("the new worker taking", lambda: successor(cluster, old))
        ends = time.monotonic() + chance.uniform(0.0, 0.04)
        until("the moment", lambda: time.monotonic() >= ends)
        os.kill(successor(cluster, old), signal.SIGKILL)
        until("one worker", lambda: [w["state"] for w in cluster.app().get("workers", [])] == ["ready"])
        answers = asked(socks)
        assert set(answers) <= {"first", "second", GONE}
        until("nobody else's", lambda: sum(connections(cluster)) == count - answers.count(GONE))
        until("no zombies", lambda: cluster.zombies() == [])


def test_a_giver_s_death_costs_what_it_has_not_given_yet_and_nothing_else(tmp_path: Path) -> None:
    count = 2000
    site = Site(tmp_path)
    with stopped_taker(site) as cluster, idlers(cluster, count) as socks:
        old, new = begin_to_give(cluster)
        looks = [0, count]  # connections that the giver still has, while the queue fills

        def is_full() -> bool:
            looks.append(next(w["connections"] for w in cluster.app()["workers"] if w["pid"] == old))
            return looks[-1] < count and looks[-3:] == [looks[-1]] * 3

        until("the queue full", is_full)
        held = looks[-1]
        assert 0 < held < count
        os.kill(old, signal.SIGKILL)
        os.kill(new, signal.SIGCONT)
        until("all taken", lambda: sum(connections(cluster)) == count - held)
        assert asked(socks).count(GONE) == held


def test_what_waits_for_a_taker_that_dies_is_taken_by_the_next(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with stopped_taker(site) as cluster, idlers(cluster, 300) as socks:
        _, new = begin_to_give(cluster)
        until("all given", lambda: sum(connections(cluster)) == 0)
        os.kill(new, signal.SIGKILL)
        until("all taken", lambda: connections(cluster) == [300])
        assert asked(socks) == ["first"] * 300


def stopped_taker(site: Site) -> Cluster:
    """A cluster of one, the successor of whose worker will be stopped (SIGSTOP) when it is to take connections."""
    site.write("first", after=STOPS_WHEN_READY)
    (site.folder / "stopped").touch()
    return site.cluster("-w", "1")


def begin_to_give(cluster: Cluster) -> tuple[int, int]:
    """Have the worker replaced; the pids of the old and the new one."""
    (cluster.folder / "stopped").unlink()
    old = cluster.workers()[0]["pid"]
    cluster.ctl("restart", "web:1", "--timeout", "0")
    until("a successor", lambda: successor(cluster, old))
    return old, successor(cluster, old)


def successor(cluster: Cluster, pid: int) -> int:
    """Who serves in place of the worker `pid`, which has begun to leave; 0 before that."""
    workers = cluster.app().get("workers", [])
    if any(worker["pid"] == pid and worker["state"] != "draining" for worker in workers):
        return 0
    return next((int(worker["pid"]) for worker in workers if worker["pid"] != pid), 0)
