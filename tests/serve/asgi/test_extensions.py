"""Early hints and trailers, as bytes and over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zttp import SERVER, Connection, Request

from supervisor.kernel.board import Cell
from supervisor.serve.asgi.bridge import AsgiBridge
from supervisor.serve.asgi.extensions import early_hints, takes_trailers, trailer_section
from supervisor.serve.http1.answer import AnswerError
from tests.serve.harness import Harness, eventually, read_until, split_answers

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
TRAILERS = b"GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\nTE: trailers\r\nConnection: keep-alive\r\n\r\n"
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
PROMISE = START | {"trailers": True}
BODY = {"type": "http.response.body", "body": b"body"}
HINT = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}
TRAILER = {"type": "http.response.trailers", "headers": [(b"x-sum", b"12")]}
HINTED = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"


def sends(*messages: dict[str, Any]) -> Callable[[dict[str, Any], Any, Any], Awaitable[None]]:
    """An app that answers with `messages`."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        for message in messages:
            await send(message)

    return app


def request(te: bytes) -> Request:
    event = Connection(SERVER).receive_event(b"GET / HTTP/1.1\r\nHost: x\r\n" + te + b"\r\n")
    assert isinstance(event, Request)
    return event


def test_what_is_offered_is_what_can_work() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope["extensions"])
        await send(START)
        await send(BODY)

    with Harness(app) as server:
        server.ask(GET * 2)
        server.ask(OLD)
    assert {name: seen[0][name] for name in seen[0] if name != "holdfast"} == {
        "http.response.early_hint": {},
        "http.response.pathsend": {},
        "http.response.trailers": {},
    }
    assert seen[1].keys() == seen[0].keys()
    assert seen[1] is not seen[0]  # an app may write into its own
    assert seen[2].keys() == {"holdfast", "http.response.pathsend"}


# Early hints.


def test_each_link_is_a_field_and_none_is_no_answer() -> None:
    assert early_hints([b"</a>; rel=preload", b"</b>"]) == (
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nlink: </b>\r\n\r\n"
    )
    assert early_hints(iter(())) == b""


@pytest.mark.parametrize("link", [b"</a>\r\nx: y", b"</a>\n", b"\r", b"\0"])
def test_no_line_break_or_nul_gets_into_a_hint(link: bytes) -> None:
    with pytest.raises(AnswerError, match="line break"):
        early_hints([link])


@pytest.mark.parametrize(
    "messages", [(HINT, START, BODY), (START, HINT, BODY), (PROMISE, HINT, BODY, TRAILER), (HINT, HINT, START, BODY)]
)
def test_hints_go_out_before_the_answer_and_as_often_as_they_are_sent(messages: tuple[dict[str, Any], ...]) -> None:
    with Harness(sends(*messages)) as server:
        data = server.ask(GET)
        count = messages.count(HINT)
        assert data.startswith(HINTED * count + b"HTTP/1.1 200 OK\r\n")
        assert split_answers(data)[-1][0] == 200
        assert server.cell(Cell.FINISHED) == 1


def test_hints_do_not_wait_for_the_answer() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send(HINT)
        await asyncio.sleep(30)

    with Harness(app) as server, server.connect() as sock:
        sock.sendall(GET)
        assert read_until(sock, b"\r\n\r\n") == HINTED


def test_hints_come_too_late_in_the_body_and_not_at_all_to_http_1_0() -> None:
    with Harness(sends(HINT, START, HINT, BODY | {"more_body": True}, HINT, BODY)) as server:
        assert server.ask(GET).count(b" 103 ") == 2
        data = server.ask(OLD)
        assert b"103" not in data
        assert data.startswith(b"HTTP/1.1 200 ")
        assert data.endswith(b"\r\n\r\nbodybody")


def test_a_hint_to_head_has_no_consequence_for_its_answer() -> None:
    with Harness(sends(HINT, START, BODY)) as server:
        data = server.ask(GET.replace(b"GET", b"HEAD"))
        assert data.startswith(HINTED + b"HTTP/1.1 200 ")
        assert data.endswith(b"content-length: 4\r\n\r\n")


# Trailers.


@pytest.mark.parametrize(
    ("te", "taken"),
    [
        (b"", False),
        (b"TE: trailers\r\n", True),
        (b"te: Trailers\r\n", True),
        (b"TE: deflate;q=0.5 ,\ttrailers\r\n", True),
        (b"TE: gzip\r\nTE: trailers\r\n", True),
        (b"TE: trailers2, x-trailers\r\n", False),
        (b"TE:\r\n", False),
    ],
)
def test_te_says_whether_trailers_are_taken(te: bytes, taken: bool) -> None:
    assert takes_trailers(request(te)) is taken


def test_trailers_are_fields() -> None:
    assert trailer_section(iter([(b"A", b"1"), (b"b", b"2")])) == b"A: 1\r\nb: 2\r\n"
    for value in (b"a\r\nb: c", b"a\n", b"\0"):
        with pytest.raises(AnswerError, match="line break"):
            trailer_section([(b"x", value)])
    with pytest.raises(AnswerError, match="not a token"):
        trailer_section([(b"x:", b"y")])


@pytest.mark.parametrize("name", [b"Content-Length", b"transfer-encoding", b"Set-Cookie", b"host", b"Trailer"])
def test_what_must_be_known_before_the_body_is_no_trailer(name: bytes) -> None:
    with pytest.raises(AnswerError, match="can't be a trailer"):
        trailer_section([(b"x", b"y"), (name, b"1")])


@pytest.mark.parametrize("pieces", [1, 2])
def test_trailers_follow_the_body_and_the_connection_lives_on(pieces: int) -> None:
    bodies: list[dict[str, Any]] = (
        [BODY] if pieces == 1 else [BODY | {"more_body": True}, {"type": "http.response.body"}]
    )
    more: list[dict[str, Any]] = [
        TRAILER | {"more_trailers": True},
        {"type": "http.response.trailers", "headers": [(b"x-more", b"b")]},
    ]
    with Harness(sends(PROMISE, *bodies, *more)) as server, server.connect() as sock:
        for _ in range(2):
            sock.sendall(TRAILERS)
            data = read_until(sock, b"x-more: b\r\n\r\n")
            head, _, rest = data.partition(b"\r\n\r\n")
            assert b"transfer-encoding: chunked" in head
            assert b"content-length" not in head
            assert rest == b"4\r\nbody\r\n0\r\nx-sum: 12\r\nx-more: b\r\n\r\n"
        eventually(lambda: server.cell(Cell.FINISHED) == 2)


def test_an_answer_ends_with_its_trailers_and_not_before() -> None:
    go = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send(PROMISE)
        await send(BODY)
        await go.wait()
        await send({"type": "http.response.trailers"})
        assert (await receive())["type"] == "http.disconnect"

    with Harness(app) as server, server.connect() as sock:
        sock.sendall(TRAILERS)
        assert read_until(sock, b"body\r\n").endswith(b"4\r\nbody\r\n")
        assert server.service.inflight == 1
        server.call(go.set)
        assert read_until(sock, b"\r\n\r\n") == b"0\r\n\r\n"
        eventually(lambda: server.service.inflight == 0)


@pytest.mark.parametrize(
    ("asked", "headers", "ends"),
    [
        (GET, [], b"0\r\n\r\n"),
        (OLD, [], b"\r\n\r\nbody"),
        (TRAILERS, [(b"content-length", b"4")], b"\r\n\r\nbody"),
        (TRAILERS.replace(b"GET", b"HEAD"), [], b"\r\n\r\n"),
    ],
)
def test_trailers_are_left_out_where_they_can_t_be(asked: bytes, headers: Any, ends: bytes) -> None:
    with Harness(sends(PROMISE | {"headers": headers}, BODY, TRAILER)) as server:
        data = server.ask(asked)
        assert data.endswith(ends)
        assert b"x-sum" not in data
        eventually(lambda: server.cell(Cell.FINISHED) == 1)


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ((PROMISE, BODY), "returned without completing its answer"),
        ((PROMISE, BODY, BODY), "RuntimeError: the app sent 'http.response.body' where the answer was waiting for its"),
        ((PROMISE, BODY | {"more_body": True}, TRAILER), "where the answer was in its body, with trailers to follow"),
        ((PROMISE, BODY, TRAILER | {"headers": [(b"x", b"\r\n")]}), "line break"),
        ((PROMISE, BODY, TRAILER | {"headers": [(b"Content-Length", b"1")]}), "Content-Length can't be a trailer"),
        ((PROMISE | {"headers": [(b"content-length", b"5")]}, BODY, TRAILER), "declared 5 bytes and answered 4"),
    ],
)
def test_trailers_that_go_wrong_end_the_connection(
    capfd: pytest.CaptureFixture[str], messages: tuple[dict[str, Any], ...], why: str
) -> None:
    with Harness(sends(*messages)) as server:
        data = server.ask(TRAILERS, end=False)
        assert b"0\r\n\r\n" not in data
        assert b"x-sum" not in data
        eventually(lambda: server.cell(Cell.CUT) == 1)
    assert why in capfd.readouterr().err


@pytest.mark.parametrize("message", [TRAILER, {"type": "http.response.push", "path": "/", "headers": []}])
def test_what_was_not_promised_or_not_offered_raises_in_the_app(
    capfd: pytest.CaptureFixture[str], message: dict[str, Any]
) -> None:
    with Harness(sends(START, message)) as server:
        assert split_answers(server.ask(TRAILERS))[0][0] == 500
    assert f"RuntimeError: the app sent {message['type']!r} where the answer was started\n" in capfd.readouterr().err


MESSAGES: list[dict[str, Any]] = [
    START,
    PROMISE,
    START | {"status": 204},
    START | {"status": 304},
    START | {"headers": [(b"content-length", b"8")]},
    PROMISE | {"headers": [(b"content-length", b"4")]},
    HINT,
    BODY,
    BODY | {"more_body": True},
    TRAILER,
    TRAILER | {"more_trailers": True},
    {"type": "http.response.pathsend", "path": __file__},
]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(MESSAGES), max_size=6),
    st.sampled_from([b"GET", b"HEAD", b"POST"]),
    st.sampled_from([GET, TRAILERS, OLD]),
)
def test_whatever_an_app_sends_its_client_reads_one_answer_or_a_cut_one(
    shared: Harness, messages: list[dict[str, Any]], method: bytes, asked: bytes
) -> None:
    bridge = shared.service.bridge
    assert isinstance(bridge, AsgiBridge)
    bridge.app = sends(*messages)
    data, cut = b"", ""
    with shared.connect() as sock, contextlib.suppress(ConnectionResetError):
        sock.sendall(asked.replace(b"GET", method))
        with contextlib.suppress(OSError):  # it may be over
            sock.shutdown(socket.SHUT_WR)
        cut = "reset"
        while piece := sock.recv(65536):
            data += piece
        cut = ""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    statuses: list[int] = []
    try:
        while not isinstance(event := client.next_event(), (h11.EndOfMessage, h11.ConnectionClosed)):
            if isinstance(event, h11.Response):
                statuses.append(event.status_code)
            assert not isinstance(event, h11.InformationalResponse) or asked is not OLD
    except h11.RemoteProtocolError as error:
        cut = str(error)
    assert cut != "reset" or asked is OLD
    assert cut in ("", "reset") or "without sending complete message body" in cut or "incomplete chunked read" in cut
    assert len(statuses) == 1
    assert client.trailing_data[0] == b""


@pytest.fixture(scope="module")
def shared() -> Any:
    with Harness(sends()) as server:
        yield server
