"""What ASGI apps answer, right or wrong, over real connections; spec 2.5."""

from __future__ import annotations

import array
import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from supervisor.kernel.board import Cell
from supervisor.serve.limits import Limits
from tests.serve.harness import Harness, answer, echo, eventually, http, read_until, split_answers

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("started", [False, True])
def test_an_app_that_raises_before_its_answer_makes_a_500(capfd: pytest.CaptureFixture[str], started: bool) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("on purpose")

    with Harness(http(app)) as server:
        assert [status for status, _, _ in split_answers(server.ask(GET * 2))] == [500, 500]
        assert server.cell(Cell.ANSWERS_5XX) == 2
    error = capfd.readouterr().err
    assert error.count("holdfast: GET /: the app raised an exception\n") == 2
    assert error.count("Traceback (most recent call last)") == 2
    assert error.count("ValueError: on purpose\n") == 2


def test_an_app_that_raises_in_its_answer_closes_the_connection(capfd: pytest.CaptureFixture[str]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("on purpose")

    with Harness(http(app)) as server:
        data = server.ask(GET, end=False)
        assert data.endswith(b"half\r\n")
        eventually(lambda: server.cell(Cell.CUT) == 1)
        assert server.service.inflight == 0
        assert server.cell(Cell.FINISHED) == 0
    assert capfd.readouterr().err.count("Traceback") == 1


def test_an_app_that_returns_without_an_answer_makes_a_500(capfd: pytest.CaptureFixture[str]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        return

    with Harness(http(app)) as server:
        assert split_answers(server.ask(GET))[0][0] == 500
    assert capfd.readouterr().err == "holdfast: GET /: the app returned without completing its answer\n"


def test_an_exit_in_the_app_does_not_end_the_worker(capfd: pytest.CaptureFixture[str]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise SystemExit(3)

    with Harness(http(app)) as server:
        assert [status for status, _, _ in split_answers(server.ask(GET * 2))] == [500, 500]
    assert "SystemExit: 3" in capfd.readouterr().err


@pytest.mark.parametrize(("declared", "sent"), [(b"3", b"abcd"), (b"5", b"abcd")])
@pytest.mark.parametrize("pieces", [1, 2])
def test_an_answer_of_another_length_than_declared_closes_and_logs_one_line(
    capfd: pytest.CaptureFixture[str], declared: bytes, sent: bytes, pieces: int
) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", declared)]})
        if pieces == 2:
            await send({"type": "http.response.body", "body": sent[:1], "more_body": True})
            await send({"type": "http.response.body", "body": sent[1:]})
        else:
            await send({"type": "http.response.body", "body": sent})

    with Harness(http(app)) as server:
        data = server.ask(GET * 2, end=False)
        assert data.count(b"HTTP/1.1 ") == 1
        if pieces == 1:
            assert data.startswith(b"HTTP/1.1 500")  # nothing was written yet
            assert b"connection: close" in data
        else:
            assert len(data.partition(b"\r\n\r\n")[2]) <= int(declared)
            eventually(lambda: server.cell(Cell.CUT) == 1)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "declared" in lines[0] or "more than" in lines[0]


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "http.response.body", "body": b""}],
        [{"type": "http.response.start", "status": 200}, {"type": "http.response.start", "status": 200}],
        [{"type": "http.nonsense"}],
        [{"type": "http.response.start", "status": 99}],
        [{"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]}],
        [{"type": "http.response.start", "status": 200, "headers": [("a", "b")]}],
        [{"type": "http.response.start", "status": 200}, {"type": "http.response.body", "body": "text"}],
    ],
)
def test_messages_out_of_order_or_shape_raise_in_the_app(
    capfd: pytest.CaptureFixture[str], messages: list[dict[str, Any]]
) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    with Harness(http(app)) as server:
        assert split_answers(server.ask(GET))[0][0] == 500
    assert capfd.readouterr().err.startswith("holdfast: GET /: ")


def test_what_is_sent_after_the_answer_is_ignored_and_logged_once(capfd: pytest.CaptureFixture[str]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, b"first")
        await answer(send, b"second")
        await send({"type": "http.response.nonsense"})

    with Harness(http(app)) as server:
        assert [body for _, _, body in split_answers(server.ask(GET * 2))] == [b"first", b"first"]
        assert server.cell(Cell.CUT) == 0
    line = "holdfast: GET /: the app sent 'http.response.start' after its answer was complete: ignored\n"
    assert capfd.readouterr().err == line * 2


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_after_the_answer_receive_gives_the_disconnect_whatever_of_the_body_was_not_read(method: bytes) -> None:
    told: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        waiting = asyncio.ensure_future(receive()) if method == b"POST" else None
        await asyncio.sleep(0)
        await answer(send)
        told.append((await receive())["type"])
        if waiting is not None:
            told.append((await waiting)["type"])

    asked = method + b" / HTTP/1.1\r\nHost: x\r\n" + (b"Content-Length: 6\r\n\r\n" if method == b"POST" else b"\r\n")
    with Harness(http(app)) as server, server.connect() as sock:
        sock.sendall(asked)
        read_until(sock, b"ok")
        eventually(lambda: not server.service.bridge.is_running())
        assert told == ["http.disconnect"] * (1 if method == b"GET" else 2)
        sock.sendall((b"123456" if method == b"POST" else b"") + GET)
        assert split_answers(read_until(sock, b"ok"))[0][0] == 200


def test_the_next_request_does_not_wait_for_work_after_the_answer() -> None:
    release = threading.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send)
        await asyncio.to_thread(release.wait, 10)

    with Harness(http(app)) as server:
        with server.connect() as sock:
            for _ in range(3):
                sock.sendall(GET)
                read_until(sock, b"ok")
            assert server.service.inflight == 0
            server.call(lambda: server.service.drain(0.0))
        eventually(lambda: server.service.connections == 0)
        assert server.empties == 0  # background work is app code, too
        release.set()
        eventually(lambda: server.empties == 1)


def test_a_streamed_answer_is_chunked_and_goes_out_as_it_is_sent() -> None:
    release = threading.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await asyncio.to_thread(release.wait, 10)
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b"two", "more_body": True})
        await send({"type": "http.response.body", "more_body": False})

    with Harness(http(app)) as server, server.connect() as sock:
        sock.sendall(GET)
        data = read_until(sock, b"one\r\n")
        release.set()
        data += read_until(sock, b"0\r\n\r\n")
        assert split_answers(data)[0][2] == b"onetwo"


def test_http_1_0_streams_until_the_close() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    with Harness(http(app)) as server:
        data = server.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", end=False)
        assert b"chunked" not in data
        assert b"connection: close" in data
        assert data.endswith(b"\r\n\r\nonetwo")


def test_a_large_answer_is_whole() -> None:
    body = bytes(range(256)) * 40_000

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, body)

    with Harness(http(app)) as server:
        assert [body == got for _, _, got in split_answers(server.ask(GET * 2))] == [True, True]


@pytest.mark.parametrize("status", [99, 100, 101, 103, 199, 600.5, "200", None, True])
def test_a_status_that_ends_no_answer_is_a_500_and_one_line(capfd: pytest.CaptureFixture[str], status: Any) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, status=status)

    with Harness(http(app)) as server:
        assert [status for status, _, _ in split_answers(server.ask(GET * 2))] == [500]
    assert capfd.readouterr().err == f"holdfast: GET /: {status!r} is not a status that an answer can have\n"


@pytest.mark.parametrize("status", [204, 205, 304])
@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("declared", [[], [(b"content-length", b"4")]])
def test_statuses_without_a_body_have_none_whatever_the_app_sends(status: int, pieces: bool, declared: Any) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": declared})
        if pieces:
            await send({"type": "http.response.body", "body": b"bo", "more_body": True})
        await send({"type": "http.response.body", "body": b"body"[2 if pieces else 0 :]})

    with Harness(http(app)) as server:
        data = server.ask(GET * 3)
    heads = data.split(b"\r\n\r\n")
    assert heads.pop() == b""
    assert [head[:12] for head in heads] == [b"HTTP/1.1 %d" % status] * 3
    length = {204: None, 205: b"0", 304: b"4" if declared else None}[status]
    for head in heads:
        assert b"transfer-encoding" not in head
        assert (b"content-length: %b\r\n" % length in head + b"\r\n") if length else b"content-length" not in head


def test_fields_of_the_connection_are_the_server_s_and_others_the_app_s() -> None:
    headers = [
        (b"Date", b"then"),
        (b"server", b"mine"),
        (b"transfer-encoding", b"gzip, chunked"),
        (b"connection", b"keep-alive, x"),
        (b"x-order", b"1"),
        (b"x-ORDER", b"2"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, b"x", iter(headers))

    with Harness(http(app)) as server:
        data = server.ask(GET + b"GET / HTTP/1.0\r\n\r\n")
    first, second = (part for part in data.split(b"HTTP/1.1 ") if part)
    own = b"200 OK\r\nDate: then\r\nserver: mine\r\nx-order: 1\r\nx-ORDER: 2\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n"
    assert first == own + b"content-length: 1\r\n\r\nx"
    assert second == own + b"content-length: 1\r\nconnection: close\r\n\r\nx"


def test_a_close_that_the_app_asks_for_is_done() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, b"x", [(b"Connection", b"Close")])

    with Harness(http(app)) as server:
        ((_, headers, _),) = split_answers(server.ask(GET * 2, end=False))
        assert headers["connection"] == "close"


@pytest.mark.parametrize("kind", [bytearray, memoryview])
@pytest.mark.parametrize("size", [10, 200_000])
@pytest.mark.parametrize("declared", [False, True])
def test_a_body_may_be_written_over_once_it_was_sent(kind: Any, size: int, declared: bool) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % (size * 3))] if declared else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        buffer = bytearray(size)
        for letter in (b"a", b"b", b"c"):
            buffer[:] = letter * size
            await send({"type": "http.response.body", "body": kind(buffer), "more_body": letter != b"c"})
        buffer[:] = b"-" * size

    with Harness(http(app)) as server:
        assert split_answers(server.ask(GET))[0][2] == b"a" * size + b"b" * size + b"c" * size


def test_a_large_body_may_be_written_over_once_it_was_sent_whole() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        buffer = bytearray(b"a" * (8 << 20))
        await answer(send, memoryview(buffer))  # type: ignore[arg-type]
        buffer[:] = bytes(8 << 20)

    with Harness(http(app)) as server:
        assert split_answers(server.ask(GET))[0][2] == b"a" * (8 << 20)


@pytest.mark.parametrize("fields", [[], [(b"content-length", b"40")]])
@pytest.mark.parametrize("trailers", [False, True])
def test_what_holds_no_bytes_does_not_cost_the_answer_its_head(
    fields: list[tuple[bytes, bytes]], trailers: bool
) -> None:
    body = b"HTTP/1.1 404 Not Found\r\nX: 23456789012\r\n"

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": fields, "trailers": trailers})
        for wrong in (None, "text"):
            with pytest.raises(TypeError):
                await send({"type": "http.response.body", "body": wrong, "more_body": True})
        await send({"type": "http.response.body", "body": body})
        if trailers:
            await send({"type": "http.response.trailers", "headers": []})

    with Harness(http(app)) as server:
        assert [each[::2] for each in split_answers(server.ask(GET * 2))] == [(200, body)] * 2


def test_the_length_of_a_buffer_is_that_of_its_bytes(capfd: pytest.CaptureFixture[str]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        length = b"4" if scope["path"] == "/right" else b"1"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": array.array("I", [65])})

    with Harness(http(app)) as server:
        assert split_answers(server.ask(GET.replace(b"/", b"/right", 1)))[0][2] == b"A\0\0\0"
        assert split_answers(server.ask(GET))[0][0] == 500
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("app", [echo, None])
def test_http_1_0_is_told_that_it_is_kept_also_with_an_error_of_ours(
    app: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    async def failing(scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise ValueError("on purpose")

    with Harness(app or http(failing)) as server:
        ask = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        answers = split_answers(server.ask(ask * 2))
        assert [headers["connection"] for _, headers, _ in answers] == ["keep-alive"] * 2


def test_a_client_that_waits_to_be_asked_for_its_body_is_not_late() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await asyncio.sleep(0.8)
        await echo(scope, receive, send)

    def asked(server: Harness, body: bytes) -> bytes:
        with server.connect(timeout=5) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(body)
            return read_until(sock, b"\r\n\r\n")

    with Harness(http(app), limits=replace(Limits(), body_idle=0.4)) as server:
        assert asked(server, b"abc").startswith(b"HTTP/1.1 200 ")
        assert asked(server, b"").startswith(b"HTTP/1.1 408 ")
        assert server.cell(Cell.BODY_TIMEOUT) == 1


def test_an_app_that_answers_first_and_reads_then_waits_no_longer_than_others() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    with Harness(http(app), limits=replace(Limits(), body_idle=0.4)) as server, server.connect(timeout=5) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        read_until(sock, b"x\r\n")
        eventually(lambda: server.cell(Cell.BODY_TIMEOUT) == 1)
        eventually(lambda: server.service.inflight == 0)
