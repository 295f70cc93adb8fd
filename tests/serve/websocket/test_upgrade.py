"""The handshake with an app over real connections: accepted, denied, answered by the app, or gone wrong."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest

from supervisor.kernel.board import Cell
from tests.serve.access.test_log import logged
from tests.serve.harness import Harness, eventually, read_all, read_until, split_answers, wsgi_echo
from tests.serve.websocket.client import HANDSHAKE, TEXT, Handler, Reader, echo, frame, opened, websocket, with_fields

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def denied_by(handler: Handler, handshake: bytes = HANDSHAKE) -> tuple[int, dict[str, str], bytes]:
    """What a client gets that stays until the server ends the connection."""
    with Harness(websocket(handler)) as server, server.connect() as sock:
        sock.sendall(handshake)
        (answer,) = split_answers(read_all(sock))
        sock.close()
        eventually(lambda: server.cell(Cell.CONNECTIONS) == 0)
        assert server.service.inflight == 0
        assert server.cell(Cell.FINISHED) == server.cell(Cell.STARTED) == 1
    return answer


def test_the_scope_has_every_key_with_its_type() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope)

    with Harness(websocket(app)) as server, server.connect() as sock:
        client = sock.getsockname()
        sock.sendall(with_fields(b"Sec-WebSocket-Protocol: a, b"))
        assert read_all(sock).startswith(b"HTTP/1.1 500 ")
        scope = seen[0]
        assert (b"upgrade", b"websocket") in scope.pop("headers")
        assert list(scope["extensions"].pop("holdfast")) == ["request_id", "traceparent", "draining"]
        assert scope == {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/chat",
            "raw_path": b"/chat",
            "query_string": b"room=1",
            "root_path": "",
            "client": client,
            "server": server.address,
            "subprotocols": ["a", "b"],
            "state": {},
            "extensions": {"websocket.http.response": {}},
        }


def test_a_handshake_cut_anywhere_is_one_handshake() -> None:
    stream = HANDSHAKE + frame(TEXT, b"sent ahead")
    with Harness(echo) as server:
        for cut in range(1, len(stream)):
            with server.connect() as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.sendall(stream[:cut])
                eventually(lambda: server.cell(Cell.ACCEPTED) == cut)  # noqa: B023 - called at once
                sock.sendall(stream[cut:])
                data = read_until(sock, b"\r\n\r\n")
                assert data.startswith(b"HTTP/1.1 101 ")
                assert Reader(sock, data.partition(b"\r\n\r\n")[2]).frame() == (TEXT, b"sent ahead")


def test_requests_before_a_handshake_are_answered_before_it() -> None:
    with Harness(echo) as server, server.connect() as sock:
        sock.sendall(GET + HANDSHAKE)
        data = read_until(sock, b"101 Switching")
        assert data.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "request_",
    [
        HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        HANDSHAKE.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        HANDSHAKE.replace(b"keep-alive, Upgrade", b"keep-alive"),
        HANDSHAKE.replace(b"Upgrade: websocket\r\n", b""),
    ],
)
def test_what_is_no_handshake_is_a_plain_request(request_: bytes) -> None:
    with Harness(echo) as server:
        ((status, _, body),) = split_answers(server.ask(request_))
    assert (status, body) == (200, b"plain")


def test_a_wsgi_app_gets_a_plain_request() -> None:
    with Harness(wsgi_echo, "wsgi") as server:
        ((status, headers, body),) = split_answers(server.ask(HANDSHAKE))
    assert (status, body) == (200, b"GET /chat ")
    assert "upgrade" not in headers


@pytest.mark.parametrize(
    ("handshake", "status"),
    [
        (HANDSHAKE.replace(b"13", b"8"), 426),
        (HANDSHAKE.replace(b"GET", b"POST"), 400),
        (with_fields(b"Content-Length: 5") + b"hello", 400),
        (with_fields(b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
        (with_fields(b"Sec-WebSocket-Extensions: permessage-deflate; ="), 400),
        (HANDSHAKE.replace(b"Host: x\r\n", b""), 400),
        (HANDSHAKE.replace(b"Host: x", b"Host: x y"), 400),
    ],
)
def test_a_bad_handshake_reaches_no_app(handshake: bytes, status: int) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise AssertionError("asked")

    with Harness(websocket(app)) as server, server.connect() as sock:
        sock.sendall(handshake)
        ((answered, headers, _),) = split_answers(read_all(sock))
        assert answered == status
        assert "close" in headers["connection"]
        assert headers.get("sec-websocket-version") == ("13" if status == 426 else None)
        assert server.service.inflight == 0


def test_what_an_app_accepts_with_is_in_the_answer() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"set-cookie", b"a=1")]})
        await receive()
        await receive()

    with Harness(websocket(app)) as server, server.connect() as sock:
        sock.sendall(with_fields(b"Sec-WebSocket-Protocol: a, b"))
        head = read_until(sock, b"\r\n\r\n")
        assert b"\r\nsec-websocket-protocol: b\r\n" in head
        assert b"\r\nset-cookie: a=1\r\n" in head


@pytest.mark.parametrize(
    "accept",
    [
        {"headers": [(b"x", b"1\r\nset-cookie: evil")]},
        {"subprotocol": "never offered"},
        {"headers": [(b"sec-websocket-accept", b"x")]},
    ],
)
def test_an_app_that_accepts_wrongly_gets_one_line_and_its_client_a_500(
    accept: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"} | accept)

    status, headers, _ = denied_by(app)
    assert status == 500
    assert "set-cookie" not in headers
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("holdfast: WebSocket /chat?room=1: ")


def test_an_app_can_t_accept_what_it_has_added_to_its_scope_itself(capfd: pytest.CaptureFixture[str]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope["subprotocols"].append("never offered")
        await send({"type": "websocket.accept", "subprotocol": "never offered"})

    assert denied_by(app)[0] == 500
    assert "which the client has not offered" in capfd.readouterr().err


def test_a_close_instead_of_an_accept_is_a_403_and_the_end() -> None:
    told: list[Any] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        told.append(await receive())
        await send({"type": "websocket.close", "code": 4000})
        told.append(await receive())
        with pytest.raises(RuntimeError):
            await send({"type": "websocket.accept"})

    # What a client hoped to send on a WebSocket is not read as a request: one answer, then the end.
    status, headers, _ = denied_by(app, HANDSHAKE + GET)
    assert status == 403
    assert headers["connection"] == "close"
    assert told == [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1006, "reason": ""}]


def test_an_app_may_answer_for_itself_at_once_or_in_pieces() -> None:
    async def whole(scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = [(b"www-authenticate", b"Basic")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"who are you?"})

    async def pieces(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 503, "headers": []})
        for piece in (b"come ", b"back ", b"later"):
            await send({"type": "websocket.http.response.body", "body": piece, "more_body": True})
        await send({"type": "websocket.http.response.body"})

    status, headers, body = denied_by(whole)
    assert (status, headers["www-authenticate"], body) == (401, "Basic", b"who are you?")
    status, headers, body = denied_by(pieces)
    assert (status, headers["transfer-encoding"], body) == (503, "chunked", b"come back later")


def test_a_streamed_denial_waits_for_its_client() -> None:
    sent = 0

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        for _ in range(400):
            await send({"type": "websocket.http.response.body", "body": b"x" * 65536, "more_body": True})
            sent += 65536
        await send({"type": "websocket.http.response.body"})

    with Harness(websocket(app)) as server, server.connect() as sock:
        sock.sendall(HANDSHAKE)
        read_until(sock, b"\r\n\r\n")
        held = -1
        while held != sent:  # until it stands still
            held = sent
            server.call(lambda: None)
        assert sent < 400 * 65536
        assert len(read_all(sock)) > 400 * 65536 - 65536


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([], 500),
        ([{"type": "websocket.send", "text": "x"}], 500),
        ([{"type": "websocket.http.response.body", "body": b"x"}], 500),
        ([{"type": "websocket.http.response.start", "status": 404}], 500),
        ([{"type": "websocket.http.response.start", "status": 404}, {"type": "websocket.accept"}], 500),
        ([{"type": "websocket.http.response.start", "status": 99}], 500),
    ],
)
def test_an_app_without_a_right_verdict_makes_one_complaint_and_a_500(
    messages: list[dict[str, Any]], status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    assert denied_by(app)[0] == status
    assert capfd.readouterr().err.count("holdfast: ") == 1


def test_an_app_that_fails_within_its_own_denial_cuts_it() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": [(b"content-length", b"100")]})
        await send({"type": "websocket.http.response.body", "body": b"x", "more_body": True})
        raise ValueError

    with Harness(websocket(app)) as server, server.connect() as sock:
        sock.sendall(HANDSHAKE)
        with contextlib.suppress(ConnectionResetError):
            assert b"500" not in read_all(sock)
        eventually(lambda: server.cell(Cell.CUT) == 1)
        assert server.service.inflight == 0


def test_a_client_that_goes_before_the_verdict_is_told_and_counted_and_no_failure(
    capfd: pytest.CaptureFixture[str],
) -> None:
    told: list[Any] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        told.append(await receive())
        told.append(await receive())
        await send({"type": "websocket.close"})
        with pytest.raises(OSError, match="gone"):
            await send({"type": "websocket.accept"})
        told.append(await receive())

    with Harness(websocket(app)) as server:
        with server.connect() as sock:
            sock.sendall(HANDSHAKE)
            eventually(lambda: told)
            assert server.service.inflight == 1
        gone = {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        eventually(lambda: told == [{"type": "websocket.connect"}, gone, gone])
        eventually(lambda: server.service.inflight == 0)
        assert server.cell(Cell.STARTED) == server.cell(Cell.FINISHED) == 1
    assert capfd.readouterr().err == ""


def test_an_open_websocket_is_a_connection_and_no_request() -> None:
    with Harness(echo, max_inflight=1) as server, opened(server):
        assert server.service.inflight == 0
        assert server.rooms == 1
        assert server.cell(Cell.STARTED) == server.cell(Cell.FINISHED) == 1
        assert server.cell(Cell.CONNECTIONS) == 1
        with opened(server) as second:
            second.sock.sendall(frame(TEXT, b"hello"))
            assert second.frame() == (TEXT, b"hello")
            assert server.service.connections == 2


def test_off_means_that_no_compression_is_agreed_on() -> None:
    handshake = with_fields(b"Sec-WebSocket-Extensions: permessage-deflate")
    for switch in (True, False):
        with Harness(echo, ws_deflate=switch) as server, server.connect() as sock:
            sock.sendall(handshake)
            assert (b"permessage-deflate" in read_until(sock, b"\r\n\r\n")) is switch


@pytest.mark.parametrize("whole", [False, True])
def test_what_holds_no_bytes_does_not_cost_a_denial_its_head(whole: bool) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 503, "headers": []})
        with pytest.raises(TypeError):
            await send({"type": "websocket.http.response.body", "body": "text", "more_body": not whole})
        await send({"type": "websocket.http.response.body", "body": b"later"})

    assert denied_by(app)[::2] == (503, b"later")


@pytest.mark.parametrize("accepts", [True, False])
def test_the_access_log_has_what_the_client_was_answered(accepts: bool, tmp_path: Path) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        verdict = {"type": "websocket.accept", "headers": [(b"x-out", b"v")]}
        await send(verdict if accepts else {"type": "websocket.close"})

    with Harness(websocket(app)) as server, server.connect() as sock:
        access = logged(server, tmp_path / "log", "%(s)s|%(B)s|%({x-out}o)s")
        sock.sendall(HANDSHAKE)
        head, _, body = read_until(sock, b"\r\n\r\n" if accepts else b"den\n").partition(b"\r\n\r\n")
        server.call(access.close)
        server.service.access = None
    assert head.startswith(b"HTTP/1.1 101" if accepts else b"HTTP/1.1 403")
    wanted = "101|0|v" if accepts else f"403|{len(body)}|-"
    assert (tmp_path / "log").read_text() == f"{wanted}\n"
