from __future__ import annotations

import contextlib
import functools
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.control import connection, server
from supervisor.control.client import ControlClient
from supervisor.control.server import same_user_or_root
from tests.control.stage import Stage, stage


def dial(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def read_all(sock: socket.socket) -> bytes:
    """What comes until the end; a reset counts as an end."""
    data = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            data += piece
    return bytes(data)


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    data = bytearray()
    while mark not in data:
        piece = sock.recv(65536)
        assert piece, f"ended before {mark!r}: {bytes(data[-200:])!r}"
        data += piece
    return bytes(data)


def talk(path: str, request: bytes) -> bytes:
    """Send, possibly against a closed door, and read all there is to read."""
    with dial(path) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(request)
        return read_all(sock)


def get(target: str, *headers: str) -> bytes:
    lines = [f"GET {target} HTTP/1.1", "host: .", *headers, "", ""]
    return "\r\n".join(lines).encode()


def post(target: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {target} HTTP/1.1", "host: .", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> str:
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"])


def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def assert_prompt(path: str) -> None:
    """The master still answers others, and quickly."""
    began = time.monotonic()
    assert ControlClient(path).version().version == "0.1.0"
    assert time.monotonic() - began < 2


# Ordinary clients


@pytest.mark.parametrize("target", ["/status", "/version", "/metrics", "/events"])
def test_curl_is_answered(live: Stage, target: str) -> None:
    live.run(lambda: live.scene.emit("log", "hello"))
    command = ["curl", "-sS", "--fail", "--unix-socket", live.path, f"http://.{target}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    assert answer.stdout.endswith("\n")


def test_curl_gets_the_status_object_whole(live: Stage) -> None:
    command = ["curl", "-sS", "--unix-socket", live.path, "http://./status"]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=10)
    assert json.loads(answer.stdout)["apps"]["web"]["generation"] == 1


def test_one_connection_carries_several_requests(live: Stage) -> None:
    with dial(live.path) as sock:
        for _ in range(3):
            sock.sendall(get("/version"))
            assert status_of(read_until(sock, b"}\n")) == 200


def test_pipelined_requests_are_answered_in_order(live: Stage) -> None:
    with dial(live.path) as sock:
        sock.sendall(get("/version") + get("/nope") + get("/version", "connection: close"))
        answer = read_all(sock)
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 404, 200]


def test_a_request_may_come_a_byte_at_a_time(live: Stage) -> None:
    with dial(live.path) as sock:
        for byte in post("/scale", b'{"app":"web","workers":3}', "connection: close"):
            sock.send(bytes([byte]))
        assert b'"workers":3' in read_all(sock)


def test_a_chunked_body_is_understood(live: Stage) -> None:
    head = b"POST /start HTTP/1.1\r\nhost: .\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    assert status_of(talk(live.path, head + b'10\r\n{"target":"api"}\r\n0\r\n\r\n')) == 202


def test_expect_100_continue_is_granted(live: Stage) -> None:
    body = b'{"target":"api"}'
    with dial(live.path) as sock:
        sock.sendall(post("/start", body, "expect: 100-continue")[: -len(body)])
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        sock.sendall(body)
        assert status_of(read_until(sock, b"}\n")) == 202


def test_a_client_that_has_shut_its_writing_side_is_still_answered(live: Stage) -> None:
    with dial(live.path) as sock:
        sock.sendall(get("/version"))
        sock.shutdown(socket.SHUT_WR)
        assert status_of(read_all(sock)) == 200


def test_http_1_0_is_answered_and_closed(live: Stage) -> None:
    assert b'"version"' in talk(live.path, b"GET /version HTTP/1.0\r\n\r\n")


def test_a_bug_in_the_master_is_a_500_and_reaches_the_reactor(path: str) -> None:
    with stage(path) as it:
        with dial(path) as sock:
            sock.sendall(post("/start", b'{"target":"broken"}'))
            answer = read_until(sock, b"}\n")
            assert status_of(answer) == 500
            assert "ZeroDivisionError" in error_of(answer)
            sock.sendall(get("/version"))
            assert status_of(read_until(sock, b"}\n")) == 200
        assert [type(error) for error in it.errors] == [ZeroDivisionError]


# Who may


def test_another_user_gets_a_403_and_the_door(path: str) -> None:
    with stage(path, allow=lambda uid: False) as it:
        answer = talk(path, post("/shutdown", b""))
        assert status_of(answer) == 403
        assert f"user {os.geteuid()} may not" in error_of(answer)
        assert it.scene.calls == []


def test_the_uid_that_is_judged_is_the_peers(path: str) -> None:
    with stage(path, allow=lambda uid: uid == os.geteuid()):
        assert ControlClient(path).is_answering()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_real_other_user_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder, stage(f"{folder}/c.sock") as it:
        os.chmod(folder, 0o755)
        os.chmod(it.path, 0o666)
        command = ["curl", "-sS", "--unix-socket", it.path, "http://./status"]
        answer = subprocess.run(command, capture_output=True, check=True, timeout=10, user=65534)
        assert "user 65534 may not" in json.loads(answer.stdout)["error"]


def test_the_same_user_and_root_may() -> None:
    assert same_user_or_root(os.geteuid())
    assert same_user_or_root(0)
    assert not same_user_or_root(os.geteuid() + 12345)


# Hostile clients


def test_a_head_above_the_limit_is_a_431(live: Stage) -> None:
    answer = talk(live.path, get("/version", "x: " + "a" * 64 * 1024))
    assert status_of(answer) == 431
    assert_prompt(live.path)


def test_a_head_below_the_limit_is_fine(live: Stage) -> None:
    assert status_of(talk(live.path, get("/version", "connection: close", "x: " + "a" * 15000))) == 200


def test_a_declared_body_above_the_limit_is_a_413_before_it_is_sent(live: Stage) -> None:
    head = b"POST /start HTTP/1.1\r\nhost: .\r\ncontent-length: 999999999999\r\n\r\n"
    with dial(live.path) as sock:
        sock.sendall(head)
        assert status_of(read_all(sock)) == 413


def test_a_long_body_is_a_413_that_its_sender_can_read(live: Stage) -> None:
    head = b"POST /start HTTP/1.1\r\nhost: .\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = talk(live.path, head + b"100000\r\n" + b"x" * 0x100000)
    assert status_of(answer) == 413
    assert "65536" in error_of(answer)
    assert live.scene.calls == []


def test_a_body_at_the_limit_is_read(live: Stage) -> None:
    assert status_of(talk(live.path, post("/start", b" " * 65536, "connection: close"))) == 400


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /status HTTP/1.1\r\nhost: .\r\ncontent-length: -1\r\n\r\n",
        b"GET /status HTTP/1.1\r\nhost: .\r\nbad header\r\n\r\n",
        b"GET /status HTTP/1.1\r\n\r\n",
        b"POST /start HTTP/1.1\r\nhost: .\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_garbage_is_a_400(live: Stage, garbage: bytes) -> None:
    answer = talk(live.path, garbage)
    assert status_of(answer) == 400
    assert error_of(answer)
    assert_prompt(live.path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(
            lambda head, cut, tail: head[:cut] + tail,
            st.sampled_from([get("/status"), get("/events?follow=1"), post("/start", b'{"target":"nobody"}')]),
            st.integers(0, 120),
            st.binary(max_size=60),
        ),
    )
)
def test_no_bytes_hurt_the_master(live: Stage, data: bytes) -> None:
    with dial(live.path) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        sock.settimeout(0.002)
        with contextlib.suppress(OSError):
            sock.recv(4096)
    assert live.errors == []
    assert_prompt(live.path)


def test_half_a_request_gets_a_408(live: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_TIMEOUT", 0.2)
    for half in (get("/status")[:-2], post("/start", b"{}" * 10)[:-5]):
        began = time.monotonic()
        answer = talk(live.path, half)
        assert status_of(answer) == 408
        assert 0.15 < time.monotonic() - began < 5


def test_a_trickle_does_not_move_the_deadline(live: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_TIMEOUT", 0.3)
    began = time.monotonic()
    with dial(live.path) as sock:
        sock.settimeout(0.02)
        answer = b""
        with contextlib.suppress(ConnectionError):
            for byte in get("/status", "x: " + "a" * 5000):
                sock.send(bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    answer += sock.recv(4096)
                if b"408" in answer:
                    break
    assert b"408" in answer
    assert time.monotonic() - began < 5


def test_a_silent_client_is_closed(live: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_TIMEOUT", 0.2)
    assert talk(live.path, b"") == b""


def test_a_client_beyond_the_limit_gets_a_503_and_places_come_free(live: Stage) -> None:
    crowd = [dial(live.path) for _ in range(200)]
    try:
        answers = []
        for sock in crowd[server.MAX_CLIENTS :]:
            with contextlib.suppress(ConnectionError):
                sock.sendall(get("/version"))
            answers.append(read_all(sock))
        told = [answer for answer in answers if answer]
        assert len(told) >= server.MAX_REFUSED
        assert {status_of(answer) for answer in told} == {503}
        crowd[0].sendall(get("/version", "connection: close"))
        assert status_of(read_all(crowd[0])) == 200
    finally:
        for sock in crowd:
            sock.close()
    eventually(lambda: status_of(talk(live.path, get("/version", "connection: close")) or b"x 0") == 200)


def test_idle_crowds_do_not_slow_the_answers_of_those_inside(live: Stage) -> None:
    with contextlib.ExitStack() as sockets:
        inside = sockets.enter_context(dial(live.path))
        inside.sendall(get("/version"))
        read_until(inside, b"}\n")
        for _ in range(150):
            sockets.enter_context(dial(live.path))
        began = time.monotonic()
        inside.sendall(get("/version"))
        read_until(inside, b"}\n")
        assert time.monotonic() - began < 1


def test_a_client_that_never_reads_its_answers_stops_being_read(live: Stage) -> None:
    request = get("/status")
    with dial(live.path) as sock:
        sock.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 2**22:
                sent += sock.send(request * 50)
        assert sent < 2**22
        assert_prompt(live.path)


def test_a_client_that_reads_nothing_is_closed(live: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STUCK_TIMEOUT", 0.3)
    with dial(live.path) as sock:
        sock.sendall(get("/events?follow=1"))
        read_until(sock, b"\r\n\r\n")
        eventually(lambda: len(live.scene.listeners) == 1)
        live.run(lambda: live.scene.burst(3000))
        eventually(lambda: live.scene.listeners == [])


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


# Streams of events


@contextlib.contextmanager
def following(live: Stage, target: str = "/events?follow=1") -> Iterator[socket.socket]:
    with dial(live.path) as sock:
        sock.sendall(get(target))
        assert b"chunked" in read_until(sock, b"\r\n\r\n").lower()
        eventually(lambda: live.scene.listeners)
        yield sock


def test_events_arrive_as_they_happen(live: Stage) -> None:
    with following(live) as sock:
        live.run(lambda: live.scene.emit("worker.ready", "first", "web", slot=1))
        assert b'"first"' in read_until(sock, b"}\n")
        live.run(lambda: live.scene.emit("worker.ready", "second", "web", slot=2))
        assert b'"second"' in read_until(sock, b"}\n")


def test_a_follower_that_leaves_is_forgotten(live: Stage) -> None:
    with following(live):
        pass
    eventually(lambda: live.scene.listeners == [])


def test_a_slow_follower_loses_the_oldest_and_is_told(live: Stage) -> None:
    total = 3000
    with following(live) as sock:
        live.run(lambda: live.scene.burst(total))
        data = read_until(sock, f"number {total - 1} ".encode())
    lines = [json.loads(line) for line in data.splitlines() if line.startswith(b"{") and line.endswith(b"}")]
    dropped = [line for line in lines if line["event"] == "events.dropped"]
    assert len(dropped) >= 1
    assert dropped[0]["count"] > 0
    seen = [int(line["message"].split()[1]) for line in lines if line["event"] == "log"]
    assert seen == sorted(seen)
    assert len(seen) + sum(line["count"] for line in dropped) >= total - 1  # the last line may be cut by our reading


def test_one_slow_follower_does_not_hold_up_another(live: Stage) -> None:
    with following(live), following(live) as quick:
        for number in range(20):
            live.run(lambda: live.scene.burst(200))
            live.run(functools.partial(live.scene.emit, "log", f"mark {number}."))
            read_until(quick, f"mark {number}.".encode())
        assert_prompt(live.path)


def test_what_a_follower_sends_is_ignored(live: Stage) -> None:
    with following(live) as sock:
        sock.sendall(b"garbage" * 1000)
        live.run(lambda: live.scene.emit("log", "still here"))
        assert b"still here" in read_until(sock, b"}\n")


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
