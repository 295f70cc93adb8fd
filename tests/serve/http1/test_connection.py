"""One connection, over real sockets: framing, order, refusals, deadlines and ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.kernel.board import Cell
from supervisor.serve.limits import Limits
from tests.serve.harness import Harness, echo, eventually, read_all, read_until, split_answers, wsgi_echo

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;e=f\r\nlo\r\n0\r\nT: u\r\n\r\n"
)


@pytest.fixture(scope="module", params=["asgi", "wsgi", "inline"])
def server(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """The echo app behind each kind of bridge."""
    kind = request.param
    harness = Harness(
        echo if kind == "asgi" else wsgi_echo,
        "asgi" if kind == "asgi" else "wsgi",
        threads=1 if kind == "inline" else 4,
    )
    with harness:
        yield harness


@pytest.fixture(scope="module")
def asgi() -> Iterator[Harness]:
    with Harness(echo) as harness:
        yield harness


def bodies(data: bytes) -> list[bytes]:
    answers = split_answers(data)
    assert [status for status, _, _ in answers] == [200] * len(answers)
    return [body for _, _, body in answers]


def statuses(data: bytes) -> list[int]:
    return [status for status, _, _ in split_answers(data)]


def test_kinds_of_bodies_come_through(server: Harness) -> None:
    assert bodies(server.ask(GET)) == [b"GET /a "]
    assert bodies(server.ask(POST)) == [b"POST /b hello"]
    assert bodies(server.ask(CHUNKED)) == [b"POST /c hello"]


def test_pipelined_requests_are_answered_in_order(server: Harness) -> None:
    wanted = [b"GET /a ", b"POST /b hello", b"POST /c hello"]
    assert bodies(server.ask((GET + POST + CHUNKED) * 20)) == wanted * 20


def test_empty_lines_before_a_request_are_skipped(server: Harness) -> None:
    assert bodies(server.ask(b"\r\n" + GET + b"\r\n\r\n" + GET)) == [b"GET /a "] * 2


@pytest.mark.parametrize(("raw", "answers"), [(b"\r\n", 0), (POST + b"\r\n", 1), (GET * 2 + b"\r\n\r\n", 2)])
def test_empty_lines_after_the_last_request_keep_no_connection_open(server: Harness, raw: bytes, answers: int) -> None:
    assert len(bodies(server.ask(raw))) == answers
    eventually(lambda: server.service.connections == 0)


@pytest.mark.parametrize("raw", [GET, POST, CHUNKED, b"\r\n" + GET + POST], ids=["get", "post", "chunked", "pipelined"])
def test_every_split_of_a_request_is_the_same(server: Harness, raw: bytes) -> None:
    whole = bodies(server.ask(raw))
    with server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in range(1, len(raw)):
            sock.sendall(raw[:cut])
            got = b""
            # The server has seen the first part once it has answered what was complete in it, or a moment is over.
            server.call(lambda: None)
            sock.sendall(raw[cut:])
            while len(split_all(got)) < len(whole):
                got += sock.recv(65536)
            assert bodies(got) == whole, cut


def split_all(data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """As `split_answers`, or nothing while the last is not complete."""
    try:
        return split_answers(data)
    except (AssertionError, ValueError):
        return []


def test_a_request_byte_by_byte(server: Harness) -> None:
    with server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in CHUNKED + GET:
            sock.sendall(bytes([byte]))
            server.call(lambda: None)
        sock.shutdown(socket.SHUT_WR)
        assert bodies(read_all(sock)) == [b"POST /c hello", b"GET /a "]


def test_a_half_closed_client_gets_all_its_answers(server: Harness) -> None:
    assert bodies(server.ask(GET * 3, end=True)) == [b"GET /a "] * 3


def test_the_connection_is_kept_and_then_closed_as_the_client_asks(server: Harness) -> None:
    with server.connect() as sock:
        sock.sendall(GET)
        assert b"connection:" not in read_until(sock, b"GET /a ")
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = read_all(sock)
        assert b"connection: close" in data


def test_http_1_0_is_closed_unless_it_asks(server: Harness) -> None:
    with server.connect() as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"connection: close" in read_all(sock)
    with server.connect() as sock:
        sock.sendall(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"connection: keep-alive" in read_until(sock, b"GET / ")
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert read_all(sock)


def test_head_has_no_body(server: Harness) -> None:
    data = server.ask(b"HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n")
    assert data.endswith(b"\r\n\r\n")
    assert b"content-length: 8" in data


def test_expect_100_continue_is_answered_before_the_body(server: Harness) -> None:
    with server.connect() as sock:
        sock.sendall(b"POST /e HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert read_until(sock, b"abc").startswith(b"HTTP/1.1 200 OK")
        sock.sendall(b"POST /e HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
        assert read_until(sock, b"POST /e abc").startswith(b"HTTP/1.1 200 OK")


def test_http_1_0_gets_no_100(server: Harness) -> None:
    raw = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx"
    assert server.ask(raw).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 300 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
    ],
)
def test_bad_heads_are_refused_and_counted_and_not_answered_twice(server: Harness, raw: bytes, expected: int) -> None:
    before = server.cell(Cell.BAD_REQUESTS)
    data = server.ask(raw + GET)
    assert statuses(data) == [expected]
    assert b"connection: close" in data
    assert server.cell(Cell.BAD_REQUESTS) == before + 1


@pytest.mark.parametrize("body", [b"x\r\n", b"3 \r\nabc\r\n0\r\n\r\n", b"3\nabc\n", b"1;" + b"e" * 90_000 + b"\r\n"])
def test_a_bad_body_is_refused(server: Harness, body: bytes) -> None:
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    before = server.cell(Cell.BAD_REQUESTS)
    assert statuses(server.ask(raw + GET)) == [400]
    assert server.cell(Cell.BAD_REQUESTS) == before + 1
    eventually(lambda: server.cell(Cell.STARTED) == server.cell(Cell.FINISHED))


def test_a_good_request_before_a_bad_one_is_answered(server: Harness) -> None:
    assert statuses(server.ask(GET + b"nonsense\r\n\r\n" + GET)) == [200, 400]


def test_an_absolute_target_is_seen_as_its_path(server: Harness) -> None:
    assert bodies(server.ask(b"GET http://x/p?q HTTP/1.1\r\nHost: x\r\n\r\n")) == [b"GET /p "]


def test_nothing_is_left_after_clients_that_vanish(server: Harness) -> None:
    for part in (b"", b"GET", POST[:-2], CHUNKED[:-4], GET + GET[:9], GET * 50):
        with server.connect() as sock:
            sock.sendall(part)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: server.service.connections == 0)
    eventually(lambda: server.service.inflight == 0)
    assert server.cell(Cell.STARTED) == server.cell(Cell.FINISHED)
    assert server.cell(Cell.CONNECTIONS) == 0
    assert server.cell(Cell.CUT) == 0


FRAGMENTS = st.sampled_from(
    [
        GET,
        POST,
        CHUNKED,
        b"GET / HTTP/1.1\r\n",
        b"Host: a\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 3\r\n",
        b"0\r\n\r\n",
        b"3\r\nabc\r\n",
        b"HTTP/1.0",
        b"Expect: 100-continue\r\n",
        b"\0",
        b": ",
        b" ",
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FRAGMENTS | st.binary(max_size=20), max_size=8))
def test_garbage_makes_no_traceback_and_no_hang(
    server: Harness, capfd: pytest.CaptureFixture[str], parts: list[bytes]
) -> None:
    with server.connect(timeout=5) as sock:
        try:
            for part in parts:
                sock.sendall(part)
            sock.shutdown(socket.SHUT_WR)
            read_all(sock)
        except (ConnectionResetError, BrokenPipeError):
            pass  # the server refused, and closed after the client had been told
    assert capfd.readouterr().err == ""
    assert bodies(server.ask(GET)) == [b"GET /a "]


def test_the_first_byte_the_head_and_the_body_have_deadlines() -> None:
    limits = Limits(first_byte=0.1, head_timeout=0.1, body_idle=0.1, keepalive=0.1, closing=0.1)
    with Harness(echo, limits=limits) as server:
        assert server.ask(b"", end=False) == b""
        assert statuses(server.ask(b"GET / HT", end=False)) == [408]
        assert statuses(server.ask(POST[:-1], end=False)) == [408]
        assert statuses(server.ask(GET, end=False)) == [200]
        eventually(lambda: server.service.connections == 0)
        assert server.cell(Cell.STARTED) == server.cell(Cell.FINISHED) == 2


def test_an_app_may_take_longer_than_any_deadline() -> None:
    async def slow(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await asyncio.sleep(1.6)
        await echo(scope, receive, send)

    limits = Limits(first_byte=0.1, head_timeout=0.1, body_idle=0.1, keepalive=0.1)
    with Harness(slow, limits=limits) as server:
        assert statuses(server.ask(GET, end=False)) == [200]


def test_a_client_that_takes_nothing_is_given_up() -> None:
    async def big(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(64 << 20)})

    with Harness(big, limits=Limits(write_idle=0.1)) as server, server.connect() as sock:
        sock.sendall(GET)
        eventually(lambda: server.service.connections == 0 and server.cell(Cell.STARTED))
        assert server.cell(Cell.FINISHED) == 1
        assert server.service.inflight == 0


def test_a_slow_client_is_not_given_up_while_it_takes_something() -> None:
    async def big(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(12 << 20)})

    with Harness(big, limits=Limits(write_idle=0.5)) as server, server.connect() as sock:
        sock.sendall(GET)
        got = 0
        started = time.monotonic()
        while got < 12 << 20:
            piece = sock.recv(1 << 20)
            assert piece, f"closed after {got} bytes"
            got += len(piece)
            pause = started + 3.0 * got / (12 << 20) - time.monotonic()
            threading.Event().wait(max(pause, 0))  # the pace of the client is what is tested
        assert got >= 12 << 20


def test_pipelined_bytes_are_left_to_the_client_while_an_answer_is_pending() -> None:
    release = threading.Event()

    async def held(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await asyncio.to_thread(release.wait, 10)
        await echo(scope, receive, send)

    with Harness(held) as server, server.connect(timeout=0.5) as sock:
        sent = 0
        block = GET * 1000
        with contextlib.suppress(TimeoutError):
            while sent < 64 << 20:
                sent += sock.send(block)
        assert sent < 64 << 20
        (connection,) = server.service.roster
        assert len(connection._rest) < 1 << 20
        release.set()
        sock.settimeout(10)
        assert sock.recv(1000)


def test_an_unread_body_is_skipped_when_small_and_ends_the_connection_when_large() -> None:
    async def deaf(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    with Harness(deaf) as server:
        small = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        with server.connect() as sock:
            sock.sendall(small)
            assert b"connection: close" not in read_until(sock, b"no")
            sock.sendall(bytes(1000) + GET)
            assert statuses(read_until(sock, b"no")) == [200]
        large = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n"
        with server.connect() as sock:
            sock.sendall(large)
            assert b"connection: close" in read_all(sock)
        with server.connect() as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
            data = read_all(sock)
            assert b"100 Continue" not in data
            assert b"connection: close" in data


def test_an_early_answer_is_not_destroyed_by_the_close() -> None:
    async def deaf(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"too large"})

    with Harness(deaf) as server:
        for _ in range(20):
            with server.connect() as sock:
                sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + bytes(200_000))
                assert read_until(sock, b"too large").startswith(b"HTTP/1.1 413")


def test_unix_sockets_and_ipv6_are_served(tmp_path: Any) -> None:
    with Harness(echo, family=socket.AF_UNIX, path=str(tmp_path / "s")) as server:
        assert bodies(server.ask(GET)) == [b"GET /a "]
    if socket.has_ipv6:
        with Harness(echo, family=socket.AF_INET6) as server:
            assert bodies(server.ask(GET)) == [b"GET /a "]


def test_room_is_told_once_for_each_time_it_comes() -> None:
    release = threading.Event()

    async def held(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await asyncio.to_thread(release.wait, 10)
        await echo(scope, receive, send)

    with Harness(held, max_inflight=2) as server:
        assert server.service.capacity == 2
        with server.connect() as one, server.connect() as two:
            one.sendall(GET)
            two.sendall(GET)
            eventually(lambda: server.service.inflight == 2)
            assert server.rooms == 0
            release.set()
            read_until(one, b"GET /a ")
            read_until(two, b"GET /a ")
            assert server.rooms == 1


def test_keepalive_is_a_setting() -> None:
    with Harness(echo, keepalive=0.1) as server:
        assert server.service.limits == replace(Limits(), keepalive=0.1)
        started = time.monotonic()
        assert statuses(server.ask(GET, end=False)) == [200]
        assert time.monotonic() - started < 3
