from __future__ import annotations

import contextlib
import functools
import json
import socket
import subprocess
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.control import connection
from tests.control.stage import Stage, stage
from tests.control.wire import (
    assert_prompt,
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


def test_an_answer_that_takes_a_while_comes_before_that_to_the_next_request(live: Stage) -> None:
    survey = b'{"target":"web:1","seconds":0}'
    with dial(live.path) as sock:
        sock.sendall(post("/heap", survey) + get("/version", "connection: close"))
        answer = read_all(sock)
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 200]
    assert answer.index(b"cart.py") < answer.index(b'"version"')


def test_what_is_refused_before_it_has_begun_is_told_at_once(live: Stage) -> None:
    answer = talk(live.path, post("/heap", b'{"target":"web","seconds":0}', "connection: close"))
    assert status_of(answer) == 409
    assert error_of(answer) == "one worker, such as web:1, not web"


def test_a_client_that_leaves_before_its_answer_comes_breaks_nothing(live: Stage) -> None:
    with dial(live.path) as sock:
        sock.sendall(post("/heap", b'{"target":"web:1","seconds":0}'))
        eventually(lambda: live.scene.calls)
    eventually(lambda: status_of(talk(live.path, get("/version", "connection: close"))) == 200)
    time.sleep(0.2)
    assert live.errors == []


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


# Streams of events


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


@pytest.mark.parametrize("fields", [101, 4000])
def test_a_head_of_countless_fields_is_a_431(live: Stage, fields: int) -> None:
    answer = talk(live.path, get("/status", *["a: b"] * fields, "connection: close"))
    assert status_of(answer) == (200 if fields < 400 else 431)  # 1 KiB is read at once, so a few more may pass


def test_a_body_of_many_lines_is_no_head_of_many_fields(live: Stage) -> None:
    body = b'{\n\n\n"target":\n"api"' + b"\n" * 5000 + b"}"
    assert status_of(talk(live.path, post("/start", body, "connection: close"))) == 202


def test_an_endless_trailer_is_a_431(live: Stage) -> None:
    head = b"POST /start HTTP/1.1\r\nhost: .\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    assert status_of(talk(live.path, head + b"a: b\r\n" * 2000)) == 431
