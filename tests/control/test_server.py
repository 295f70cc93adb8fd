from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time

import pytest

from supervisor.control import access, server
from supervisor.control.access import Access, Peer
from supervisor.control.client import ControlClient
from supervisor.control.feed import MAX_FOLLOWERS
from supervisor.control.terminal import Terminal
from supervisor.control.waiting import roll
from tests.control.stage import Stage, stage
from tests.control.wire import (
    dial,
    error_of,
    eventually,
    following,
    get,
    post,
    read_all,
    read_until,
    status_of,
    talk,
)

# Who may


def test_another_user_gets_a_403_and_the_door(path: str) -> None:
    with stage(path, permit=lambda peer: Access.NONE) as it:
        answer = talk(path, post("/shutdown", b""))
        assert status_of(answer) == 403
        assert f"user {os.geteuid()} may not" in error_of(answer)
        assert it.scene.calls == []


def test_the_uid_that_is_judged_is_the_peers(path: str) -> None:
    with stage(path, permit=lambda peer: Access.FULL if peer.uid == os.geteuid() else Access.NONE):
        assert ControlClient(path).is_answering()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_real_other_user_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder, stage(f"{folder}/c.sock") as it:
        os.chmod(folder, 0o755)
        os.chmod(it.path, 0o666)
        command = ["curl", "-sS", "--unix-socket", it.path, "http://./status"]
        answer = subprocess.run(command, capture_output=True, check=True, timeout=10, user=65534)
        assert "user 65534 may not" in json.loads(answer.stdout)["error"]


# Crowds and shortages


def test_a_newcomer_takes_the_place_of_who_has_been_silent_longest(live: Stage) -> None:
    crowd = [dial(live.path) for _ in range(server.MAX_OF_A_USER)]
    try:
        eventually(lambda: len(live.server._clients) == server.MAX_OF_A_USER)
        for _ in range(3):
            assert ControlClient(live.path).is_answering()
        assert read_all(crowd[0]) == b""
        crowd[-1].sendall(get("/version", "connection: close"))
        assert status_of(read_all(crowd[-1])) == 200
    finally:
        for sock in crowd:
            sock.close()


def test_who_has_been_answered_keeps_the_place_while_others_have_not_even_asked(live: Stage) -> None:
    with contextlib.ExitStack() as sockets:
        inside = sockets.enter_context(dial(live.path))
        inside.sendall(get("/version"))
        read_until(inside, b"}\n")
        for _ in range(150):
            sockets.enter_context(dial(live.path))
        eventually(lambda: len(live.server._clients) == server.MAX_OF_A_USER)
        inside.sendall(get("/version"))
        read_until(inside, b"}\n")


def test_no_more_than_the_limit_are_ever_served_at_once(live: Stage) -> None:
    most = 0
    with contextlib.ExitStack() as sockets:
        for _ in range(150):
            sockets.enter_context(dial(live.path)).sendall(b"GET /sta")
            most = max(most, len(live.server._clients))
    assert most <= server.MAX_OF_A_USER


def test_one_users_crowd_leaves_room_for_another(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    users = iter([1000] * 100 + [0])
    monkeypatch.setattr(access, "peer_of", lambda sock: Peer(next(users), frozenset()))
    with stage(path, permit=lambda peer: Access.FULL) as it, contextlib.ExitStack() as sockets:
        for _ in range(100):
            sockets.enter_context(dial(path)).sendall(get("/events?follow=1"))
        assert ControlClient(path).is_answering()
        assert len([peer for peer in it.server._clients.values() if peer.uid == 1000]) <= server.MAX_OF_A_USER


def test_more_followers_than_the_limit_get_a_409_and_a_roll_is_waited_for_without_its_events(live: Stage) -> None:
    with contextlib.ExitStack() as followers:
        for _ in range(MAX_FOLLOWERS):
            followers.enter_context(dial(live.path)).sendall(get("/events?follow=1"))
        eventually(lambda: len(live.server._feed._followers) == MAX_FOLLOWERS)
        assert status_of(talk(live.path, get("/events?follow=1", "connection: close"))) == 409
        assert len(live.scene.listeners) == 1
        client = ControlClient(live.path)
        assert roll(client, Terminal(), client.reload, "web", no_wait=False) == 0


def test_descriptors_running_out_neither_kills_nor_spins(live: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SHORTAGE_PAUSE", 0.2)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with dial(live.path) as inside:
        inside.sendall(get("/version"))
        read_until(inside, b"}\n")
        late = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        late.settimeout(10)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        hoard: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    hoard.append(os.dup(0))
            late.connect(live.path)
            late.sendall(get("/version", "connection: close"))
            inside.sendall(get("/version"))
            read_until(inside, b"}\n")
            used = time.process_time()
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                late.recv(1)
            assert time.process_time() - used < 0.2, "the loop spins"
        finally:
            for fd in hoard:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (_soft, hard))
        late.settimeout(10)
        assert status_of(read_all(late)) == 200
        late.close()


def test_the_master_pays_for_nothing_that_only_holdfastctl_needs() -> None:
    code = "import sys, supervisor.control.server; print(*{'rich', 'click', 'asyncio', 'threading'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "\n"


# The end


def test_closing_ends_streams_regularly_after_their_last_event(path: str) -> None:
    with stage(path) as it, following(it) as sock:
        it.run(lambda: it.scene.emit("master.stopping", "bye"), it.server.close)
        rest = read_all(sock)
    assert b"bye" in rest
    assert rest.endswith(b"0\r\n\r\n")


def test_shutdown_is_answered_though_it_closes_the_server(path: str) -> None:
    with stage(path) as it:
        it.scene.on_shutdown = it.server.close
        assert json.loads(talk(path, post("/shutdown", b"")).partition(b"\r\n\r\n")[2]) == {"state": "stopping"}
        assert it.errors == []


def test_shutdown_is_answered_though_the_reactor_stops_with_it(path: str) -> None:
    it = Stage(path)

    def stop_at_once() -> None:
        it.server.close()
        it.reactor.stop()

    it.scene.on_shutdown = stop_at_once
    assert b"stopping" in talk(path, post("/shutdown", b""))
    it._thread.join(10)
    assert not it._thread.is_alive()
    it.reactor.close()
    assert it.errors == []


def test_closing_waits_only_a_moment_for_one_that_does_not_read(path: str) -> None:
    with stage(path) as it, following(it):
        it.run(lambda: it.scene.burst(3000))
        began = time.monotonic()
        it.run(it.server.close)
        assert time.monotonic() - began < 2


def test_closing_does_not_mind_a_follower_that_has_just_left(path: str) -> None:
    with stage(path) as it, following(it) as sock:
        it.run(sock.close, lambda: it.scene.burst(10), it.server.close)
        assert it.errors == []


def test_after_closing_nobody_is_let_in(path: str) -> None:
    with stage(path) as it:
        it.run(it.server.close)
        with pytest.raises(ConnectionRefusedError):
            dial(path)
        it.run(it.server.close)


def test_no_descriptor_is_left_behind(path: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with stage(path) as it, contextlib.ExitStack() as sockets:
        for target in ("/status", "/events?follow=1", "/nope"):
            sockets.enter_context(dial(path)).sendall(get(target))
        ControlClient(path).version()
        eventually(lambda: it.scene.listeners)
    assert len(os.listdir("/proc/self/fd")) == before
