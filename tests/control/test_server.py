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
from collections.abc import Callable, Iterator

import pytest

from supervisor.control import access, server
from supervisor.control.access import Access, Peer
from supervisor.control.client import ControlClient
from supervisor.control.connection import READ_BYTES
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


def spin(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


@pytest.fixture
def busy(live: Stage, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[int]]:
    """Have the master take 2 ms for one kind of answer; the result is filled with the turns in which it was asked."""

    def take_long(name: str) -> list[int]:
        turns: list[int] = []
        answer = getattr(live.scene, name)

        def slowly() -> object:
            turns.append(live.reactor.turns)
            spin(0.002)
            return answer()

        monkeypatch.setattr(live.scene, name, slowly)
        return turns

    return take_long


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


def test_no_more_are_served_at_once_either_when_all_their_answers_take_long(
    live: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.scene, "later", lambda delay, action: None)
    with contextlib.ExitStack() as sockets:
        for count in range(1, server.MAX_OF_A_USER + 20):
            sockets.enter_context(dial(live.path)).sendall(post("/heap", b'{"target":"web:1","seconds":1}'))
            eventually(lambda count=count: len(live.scene.calls) == count)  # type: ignore[misc]
        assert len(live.server._clients) == server.MAX_OF_A_USER


# What one client may do in a turn


def test_requests_that_come_along_with_another_are_for_other_turns(
    live: Stage, busy: Callable[[str], list[int]]
) -> None:
    turns = busy("rolls")
    with dial(live.path) as sock:
        sock.sendall(get("/rolls") * 39 + get("/rolls", "connection: close"))
        assert read_all(sock).count(b"HTTP/1.1 200") == 40
    assert len(turns) == 40
    assert max(map(turns.count, turns)) <= 2, "one of those who come, one of those who are in"


def test_a_client_that_sends_faster_than_it_is_answered_is_read_no_faster(live: Stage) -> None:
    with dial(live.path) as sock, dial(live.path) as other:
        sock.setblocking(False)
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                sock.send(get("/rolls") * 20)
            other.sendall(get("/version"))
            read_until(other, b"}\n")
            waiting = [len(client._http.trailing_data[0]) for client in list(live.server._clients)]
            assert max(waiting) <= READ_BYTES
            with contextlib.suppress(BlockingIOError):
                sock.recv(1 << 16)


def test_an_answer_that_takes_long_to_make_is_made_in_slices_and_others_are_answered_meanwhile(
    live: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []

    def metrics() -> Iterator[str]:
        for number in range(200):
            turns.append(live.reactor.turns)
            spin(0.001)
            yield f"# {number}\n"

    monkeypatch.setattr(live.scene, "metrics", metrics)
    with dial(live.path) as sock:
        sock.sendall(get("/metrics", "connection: close"))
        assert ControlClient(live.path).is_answering()
        assert len(turns) < 200
        body = read_all(sock).partition(b"\r\n\r\n")[2]
    assert body == b"".join(b"# %d\n" % number for number in range(200))
    assert max(map(turns.count, turns)) <= 2


def test_an_answer_that_fails_while_it_is_made_is_a_500(path: str) -> None:
    def metrics() -> Iterator[str]:
        yield "# one\n"
        raise ZeroDivisionError

    with stage(path) as it:
        it.scene.metrics = metrics  # type: ignore[method-assign]
        answer = talk(path, get("/metrics", "connection: close"))
        assert status_of(answer) == 500
        assert "ZeroDivisionError" in error_of(answer)
        eventually(lambda: [type(error) for error in it.errors] == [ZeroDivisionError])


def test_a_stream_that_begins_with_much_is_begun_in_slices_and_keeps_the_order(live: Stage) -> None:
    live.run(lambda: live.scene.burst(900))  # a slow reader loses none of so many
    with following(live, "/events?follow=1&recent=1") as sock:
        live.run(lambda: live.scene.emit("log", "the newest"))
        lines = [line for line in read_until(sock, b"the newest").splitlines() if line.startswith(b"{")]
    assert [json.loads(line)["message"].split()[1] for line in lines[:-1]] == [str(number) for number in range(900)]


def test_closing_finishes_an_answer_that_is_being_made(path: str) -> None:
    def metrics() -> Iterator[str]:
        for _ in range(20):
            spin(0.002)
            yield "# more\n"

    with stage(path) as it, dial(path) as sock:
        it.scene.metrics = metrics  # type: ignore[method-assign]
        sock.sendall(get("/metrics"))
        eventually(lambda: any(client.is_busy for client in list(it.server._clients)))
        it.run(it.server.close)
        assert read_all(sock).count(b"# more") == 20


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
