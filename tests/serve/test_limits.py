"""Every limit on clients, over real sockets: how a request or connection ends by it, and where that is counted."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zttp
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.config.options import BY_KEY
from supervisor.config.settings import MAX_REQUEST_FIELDS, MAX_REQUEST_HEAD, MAX_REQUEST_LINE, AppSettings
from supervisor.config.values import Parser
from supervisor.kernel.board import ENDED_BY, Cell
from supervisor.serve.http1.head import judge_size
from supervisor.serve.limits import Limits
from tests.serve.harness import Harness, echo, eventually, read_all, read_until, split_answers, wsgi_echo

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
KINDS = ("asgi", "wsgi", "inline")


def served(kind: str, **settings: Any) -> Harness:
    """The echo app by interface; `inline` is WSGI with one thread."""
    if kind == "asgi":
        return Harness(echo, **settings)
    return Harness(wsgi_echo, "wsgi", threads=1 if kind == "inline" else 4, **settings)


def statuses(data: bytes) -> list[int]:
    return [status for status, _, _ in split_answers(data)]


def ended(server: Harness) -> dict[str, int]:
    """What was counted, without zeroes."""
    return {name: server.cell(cell) for name, cell in ENDED_BY.items() if server.cell(cell)}


def parses(head: bytes) -> bool:
    try:
        zttp.Connection(zttp.SERVER).receive_event(head)
    except zttp.RemoteProtocolError:
        return False
    return True


def accepts(parse: Parser, value: object) -> bool:
    try:
        parse(value)
    except ValueError:
        return False
    return True


def test_the_most_that_may_be_set_is_what_the_parser_takes() -> None:
    line = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
    assert parses(line % (b"x" * (MAX_REQUEST_LINE - 14)))
    assert not parses(line % (b"x" * (MAX_REQUEST_LINE - 13)))
    field = b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n"
    assert parses(field % (b"y" * (MAX_REQUEST_LINE - 3)))
    assert not parses(field % (b"y" * (MAX_REQUEST_LINE - 2)))
    fields = b"GET / HTTP/1.1\r\n%b\r\n"
    assert parses(fields % (b"Host: a\r\n" + b"X: y\r\n" * (MAX_REQUEST_FIELDS - 1)))
    assert not parses(fields % (b"Host: a\r\n" + b"X: y\r\n" * MAX_REQUEST_FIELDS))
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"y" * 10_000 + b"\r\n") * 6 + b"Z: %b\r\n\r\n"
    rest = MAX_REQUEST_HEAD - len(head % b"")
    assert parses(head % (b"z" * rest))
    assert not parses(head % (b"z" * (rest + 1)))


def test_a_request_line_as_long_as_may_be_set_is_served_and_one_byte_more_is_not() -> None:
    parse = BY_KEY["limit_request_line"].parse
    most = max(size for size in range(MAX_REQUEST_LINE - 9, MAX_REQUEST_LINE + 9) if accepts(parse, size))
    with Harness(echo, limit_request_line=parse(most)) as server:
        for length, status in ((most, 200), (most + 1, 414)):
            target = b"/" + b"a" * (length - len("GET / HTTP/1.1"))
            assert statuses(server.ask(head_of(1, target))) == [status]


def test_the_defaults_of_the_settings_are_those_of_the_limits() -> None:
    assert Limits.of(AppSettings(name="web", app="a:b")) == Limits()


def test_every_setting_reaches_its_limit() -> None:
    settings = AppSettings(
        name="web",
        app="a:b",
        limit_request_line=200,
        limit_request_head=2000,
        limit_request_fields=20,
        max_body=300,
        first_byte_timeout=1,
        head_timeout=2,
        body_timeout=3,
        send_timeout=4,
        keepalive=5,
        keepalive_requests=6,
        max_connections=7,
    )
    assert Limits.of(settings) == Limits(
        request_line=200,
        head=2000,
        fields=20,
        body=300,
        first_byte=1,
        head_timeout=2,
        body_idle=3,
        write_idle=4,
        keepalive=5,
        keepalive_requests=6,
        connections=7,
    )


@given(
    line=st.integers(0, 300),
    name=st.integers(1, 20),
    count=st.integers(0, 110),
    limits=st.builds(Limits, request_line=st.integers(128, 600), head=st.integers(200, 900), fields=st.integers(1, 99)),
)
@example(line=0, name=1, count=100, limits=Limits(request_line=600, head=600, fields=99))
def test_no_head_that_breaks_a_limit_is_too_small_to_be_judged(
    line: int, name: int, count: int, limits: Limits
) -> None:
    head = b"G /" + b"x" * line + b" HTTP/1.1\r\n" + (b"n" * name + b":\r\n") * count + b"\r\n"
    fits = line + 12 <= limits.request_line and len(head) <= limits.head and count <= limits.fields
    assert (judge_size(head, limits) is None) == fits
    assert fits or len(head) > limits.small_head


def head_of(fields: int, target: bytes = b"/") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * (fields - 1) + b"\r\n"


@pytest.fixture(scope="module", params=KINDS)
def narrow(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """Small limits, set as a user sets them."""
    settings = {"limit_request_line": 128, "limit_request_head": 1024, "limit_request_fields": 10, "max_body": 20}
    with served(request.param, **settings) as server:
        yield server


@pytest.mark.parametrize(
    ("raw", "status", "kind"),
    [
        (head_of(2, b"/" + b"a" * 115), 414, "limit_request_line"),
        (b"GET /" + b"a" * 200, 414, "limit_request_line"),
        (head_of(11), 431, "limit_request_fields"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1000 + b"\r\n\r\n", 431, "limit_request_head"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1000, 431, "limit_request_head"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 21\r\n\r\n", 413, "max_body"),
        (b"POST / HTTP/1.0\r\nContent-Length: 99999999999999\r\n\r\n", 413, "max_body"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 21\r\nExpect: 100-continue\r\n\r\n", 413, "max_body"),
        (CHUNKED + b"15\r\n" + b"x" * 21 + b"\r\n0\r\n\r\n", 413, "max_body"),
        (CHUNKED + b"1\r\nx\r\n" * 21, 413, "max_body"),
        (CHUNKED + b"zz\r\n", 400, "malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "http_version"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501, "not_implemented"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "not_implemented"),
    ],
)
def test_a_limit_ends_in_its_status_a_close_and_a_count(narrow: Harness, raw: bytes, status: int, kind: str) -> None:
    before, refused = ended(narrow), narrow.cell(Cell.BAD_REQUESTS)
    data = narrow.ask(raw, end=False)
    assert statuses(data) == [status]
    assert b"connection: close\r\n" in data
    assert ended(narrow) == before | {kind: before.get(kind, 0) + 1}
    assert narrow.cell(Cell.BAD_REQUESTS) == refused + 1


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (head_of(2, b"/" + b"a" * 114), b"GET /" + b"a" * 114 + b" "),
        (head_of(10), b"GET / "),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 992 + b"\r\n\r\n", b"GET / "),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n" + b"x" * 20, b"POST / " + b"x" * 20),
        (CHUNKED + b"14\r\n" + b"x" * 20 + b"\r\n0\r\nT: u\r\n\r\n", b"POST /c " + b"x" * 20),
    ],
)
def test_what_is_just_within_a_limit_is_served(narrow: Harness, raw: bytes, body: bytes) -> None:
    assert [answer[0::2] for answer in split_answers(narrow.ask(raw))] == [(200, body)]


def test_a_client_that_expects_100_gets_its_413_instead_and_the_app_nothing(narrow: Harness) -> None:
    started = narrow.cell(Cell.STARTED)
    with narrow.connect() as sock:
        sock.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 21\r\nExpect: 100-continue\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 413 ")
    assert narrow.cell(Cell.STARTED) == started


@pytest.mark.parametrize("kind", KINDS)
def test_a_413_outlives_the_body_that_the_client_goes_on_sending(kind: str) -> None:
    with served(kind, max_body=100) as server:
        for head, piece in (
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n", b"x" * 5000),
            (CHUNKED, b"1388\r\n" + b"x" * 5000 + b"\r\n"),
        ):
            with server.connect() as sock:
                sock.sendall(head + piece * 100)
                assert statuses(read_all(sock)) == [413]
        eventually(lambda: server.service.inflight == 0)
        assert server.cell(Cell.STARTED) == server.cell(Cell.FINISHED) == 1  # the chunked one


def test_an_app_that_reads_an_endless_body_is_told_that_its_client_has_gone() -> None:
    told: list[Any] = []

    async def reader(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        while True:
            message = await receive()
            told.append(message)
            if message["type"] == "http.disconnect":
                return

    with Harness(reader, max_body=10) as server, server.connect() as sock:
        sock.sendall(CHUNKED + b"5\r\nabcde\r\n")
        eventually(lambda: told)
        sock.sendall(b"6\r\nfghijk\r\n")
        assert statuses(read_all(sock)) == [413]
        eventually(lambda: told[-1]["type"] == "http.disconnect")
        assert b"".join(message.get("body", b"") for message in told) == b"abcde"


def test_a_body_that_runs_over_behind_a_begun_answer_ends_the_connection_and_nothing_is_added() -> None:
    async def early(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    with Harness(early, max_body=10) as server, server.connect() as sock:
        sock.sendall(CHUNKED)
        head = read_until(sock, b"begun\r\n")
        sock.sendall(b"b\r\nabcdefghijk\r\n")
        assert read_all(sock) == b""
        assert head.startswith(b"HTTP/1.1 200 ")
        assert ended(server) == {"max_body": 1}
        eventually(lambda: server.service.inflight == 0)


@pytest.mark.parametrize(
    ("setting", "raw", "status"),
    [
        ("first_byte_timeout", b"", None),
        ("first_byte_timeout", b"\r\n", None),
        ("head_timeout", b"GET / HT", 408),
        ("body_timeout", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab", 408),
        ("body_timeout", CHUNKED + b"2\r\nab\r\n", 408),
        ("keepalive", GET, 200),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_time_ends_in_408_or_a_close_and_a_count(kind: str, setting: str, raw: bytes, status: int | None) -> None:
    with served(kind, **{setting: 0.1}) as server:
        assert statuses(server.ask(raw, end=False)) == ([] if status is None else [status])
        assert ended(server) == {setting: 1}
        eventually(lambda: server.service.connections == 0)


def test_a_client_that_takes_nothing_of_its_answer_is_cut_off_and_counted() -> None:
    async def big(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(64 << 20)})

    with Harness(big, send_timeout=0.1) as server, server.connect() as sock:
        sock.sendall(GET)
        eventually(lambda: server.cell(Cell.STARTED) and server.service.connections == 0)
        assert ended(server) == {"send_timeout": 1}


def test_the_rest_of_a_body_that_no_app_took_has_its_time_too() -> None:
    async def deaf(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    with Harness(deaf, body_timeout=0.1) as server:
        data = server.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", end=False)
        assert statuses(data) == [200]
        assert ended(server) == {"body_timeout": 1}


@pytest.mark.parametrize("before", [b"", GET], ids=["fresh", "kept"])
def test_empty_lines_win_no_time(before: bytes) -> None:
    """Whole ones, and those that come in two pieces, each in good time."""
    times: dict[str, Any] = {"first_byte_timeout": 1.0, "keepalive": 1.0, "head_timeout": 1.0}
    with Harness(echo, **times) as server, server.connect(timeout=0.1) as sock:
        if before:
            sock.sendall(before)
            read_until(sock, b"GET /a ")
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for piece in itertools.cycle((b"\r\n", b"\r", b"\n", b"\r\n\r", b"\n")):
                sock.sendall(piece)
                assert time.monotonic() - started < 6
                with contextlib.suppress(TimeoutError):
                    data = sock.recv(1000)
                    assert not data or data.startswith(b"HTTP/1.1 408 ")
                    break
        eventually(lambda: server.service.connections == 0)
        assert set(ended(server)) <= set(times)
        assert sum(ended(server).values()) == 1


def last_of(server: Harness, sock: socket.socket, raw: bytes, count: int) -> list[bool]:
    """Whether each of `count` answers says that it is the last."""
    said = []
    for _ in range(count):
        sock.sendall(raw)
        said.append(b"connection: close" in read_until(sock, b"GET /a "))
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_of_a_connections_requests_is_answered_with_connection_close(kind: str) -> None:
    with served(kind, keepalive_requests=3) as server:
        with server.connect() as sock:
            assert last_of(server, sock, GET, 3) == [False, False, True]
            assert read_all(sock) == b""
        assert ended(server) == {"keepalive_requests": 1}
        assert statuses(server.ask(GET * 5)) == [200] * 3
        assert ended(server) == {"keepalive_requests": 2}
        old = b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        with server.connect() as sock:
            assert last_of(server, sock, old, 3) == [False, False, True]
            assert read_all(sock) == b""
        eventually(lambda: server.cell(Cell.STARTED) == server.cell(Cell.FINISHED) == 9)


def test_one_request_a_connection_is_a_limit_as_any_other() -> None:
    with Harness(echo, keepalive_requests=1) as server:
        posted = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
        data = server.ask(posted + GET, end=False)
        assert statuses(data) == [200]
        assert b"connection: close" in data
        assert statuses(server.ask(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", end=False)) == [200]
        assert ended(server) == {"keepalive_requests": 1}  # the client's own close is not the limit's


def test_requests_of_other_connections_are_not_counted_in() -> None:
    with Harness(echo, keepalive_requests=3) as server, server.connect() as one, server.connect() as other:
        assert last_of(server, one, GET, 2) == [False, False]
        assert last_of(server, other, GET, 2) == [False, False]
        assert last_of(server, one, GET, 1) == [True]


def test_room_for_a_connection_is_told_once_there_is_a_place() -> None:
    with Harness(echo, max_connections=2) as server:
        assert server.call(server.service.has_place)
        with server.connect() as one, server.connect() as other:
            eventually(lambda: server.service.connections == 2)
            assert not server.call(server.service.has_place)
            assert server.service.crowd == "2 connections open, room for 2"
            assert server.rooms == 0
            assert not server.call(server.service.has_place)
            assert ended(server) == {"max_connections": 1}
            one.close()
            eventually(lambda: server.rooms == 1)
            assert server.call(server.service.has_place)
            other.close()
            eventually(lambda: server.service.connections == 0)
            assert server.rooms == 1  # nobody had asked in vain


def test_connections_that_owe_their_proxy_header_have_places() -> None:
    with Harness(echo, max_connections=2, proxy_protocol=True, forwarded_allow_ips=("127.0.0.1/32",)) as server:
        with server.connect() as one, server.connect():
            one.sendall(b"PROXY UNKNOWN\r\n" + GET)
            read_until(one, b"GET /a ")
            eventually(lambda: not server.call(server.service.has_place))
            assert server.service.connections == 1
        eventually(lambda: server.rooms == 1)
        assert server.call(server.service.has_place)


def test_a_wrong_proxy_header_is_counted_as_such(capfd: pytest.CaptureFixture[str]) -> None:
    with Harness(echo, proxy_protocol=True, forwarded_allow_ips=("127.0.0.1/32",)) as server:
        with contextlib.suppress(ConnectionResetError):
            assert server.ask(GET, end=False) == b""
        eventually(lambda: ended(server) == {"proxy_protocol": 1})
    assert len(capfd.readouterr().err.splitlines()) == 1
