"""How connections end: told to the app, to the client, and never too late."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from supervisor.kernel.board import Cell
from supervisor.serve import gathering
from supervisor.serve.limits import Limits
from tests.serve.harness import Harness, echo, eventually, http, read_all, read_until, wsgi_echo
from tests.serve.stepped import Client, Wired

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"
MUCH = bytes(20_000)  # more than is read ahead, and no more than the kernel takes: else it keeps the end back, too
QUICK = replace(Limits(), half_closed=0.2, closing=0.4, read_ahead=4096)


class Patient:
    """Answers at once, but at /wait waits for its client to go."""

    def __init__(self) -> None:
        self.told = threading.Event()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            await receive()
            assert (await receive())["type"] == "http.disconnect"
            self.told.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


def close(sock: socket.socket) -> None:
    sock.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
@pytest.mark.parametrize("end", [close, reset, half_close])
@pytest.mark.parametrize("sent", [GET + WAIT, WAIT + MUCH, GET + WAIT + MUCH])
def test_an_app_that_waits_for_its_client_hears_of_its_end_whatever_was_sent_around(
    sent: bytes, end: Callable[[socket.socket], None], family: socket.AddressFamily, tmp_path: Any
) -> None:
    app = Patient()
    path = str(tmp_path / "s") if family == socket.AF_UNIX else None
    with Harness(http(app), limits=QUICK, family=family, path=path) as server, server.connect() as sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.send(sent)
        eventually(lambda: server.cell(Cell.STARTED) == sent.count(b"HTTP"))
        end(sock)
        assert app.told.wait(5)
        if end is half_close:
            sock.settimeout(5)
            read_until(sock, b"ok")
            sock.close()
        eventually(lambda: server.service.inflight == server.service.connections == 0)


def test_a_client_that_is_still_there_is_not_taken_for_gone() -> None:
    app = Patient()
    with Harness(http(app), limits=QUICK) as server, server.connect() as sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.send(WAIT + MUCH)
        assert not app.told.wait(1.0)
        assert server.service.inflight == 1


def test_a_client_that_says_nothing_behind_a_last_answer_is_let_go_though_it_has_sent_too_much() -> None:
    wired = Wired(echo, limits=QUICK)
    wired.start()
    with wired:
        client = wired.connect()
        client.send(GET.replace(b"Host", b"Connection: close\r\nHost") + MUCH)
        wired.settle()
        assert client.ended
        for _ in range(4):
            wired.advance(0.5)
        assert client.closed
        wired.assert_idle()


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 50\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"Content-Length: 5\r\n\r\n",
    ],
)
@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_a_body_that_a_half_closed_client_owes_is_not_waited_for(interface: Any, rest: bytes) -> None:
    go = threading.Event()
    seen: list[str] = []

    async def slow(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope["method"])
        await asyncio.to_thread(go.wait, 5)
        await echo(scope, receive, send)

    def wsgi_slow(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append(environ["REQUEST_METHOD"])
        go.wait(5)
        return wsgi_echo(environ, start_response)

    app: Any = http(slow) if interface == "asgi" else wsgi_slow
    with Harness(app, interface) as server, server.connect(timeout=5) as sock:
        sock.sendall(GET + b"POST / HTTP/1.1\r\nHost: x\r\n" + rest)
        eventually(lambda: seen)
        sock.shutdown(socket.SHUT_WR)
        eventually(lambda: server.call(lambda: all(each.eof for each in server.service.roster)))  # type: ignore[union-attr]
        go.set()
        data = read_all(sock)
        assert data.count(b"HTTP/1.1 200") == data.count(b"HTTP/1.1") == 1
        eventually(lambda: server.service.inflight == server.service.connections == 0)
        assert server.cell(Cell.STARTED) == server.cell(Cell.FINISHED) == 2
    assert seen == ["GET"]


async def breaks_off(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half of it", "more_body": True})
    await asyncio.sleep(0.05)
    raise ValueError("on purpose")


def wsgi_breaks_off(_environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [])
    yield b"half of it"
    raise ValueError("on purpose")


@pytest.mark.parametrize(("interface", "threads"), [("asgi", 1), ("wsgi", 1), ("wsgi", 4)])
@pytest.mark.usefixtures("capfd")
def test_half_an_answer_does_not_look_whole_to_http_1_0(interface: Any, threads: int) -> None:
    app: Any = http(breaks_off) if interface == "asgi" else wsgi_breaks_off
    with Harness(app, interface, threads=threads) as server, server.connect(timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            read_all(sock)
        eventually(lambda: server.cell(Cell.CUT) == 1)


def test_an_answer_to_http_1_0_that_a_slow_body_ends_does_not_look_whole() -> None:
    async def app(_scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    with Harness(http(app), limits=replace(QUICK, body_idle=0.3)) as server, server.connect(timeout=5) as sock:
        sock.sendall(b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\na")
        with pytest.raises(ConnectionResetError):
            read_all(sock)
        assert server.cell(Cell.BODY_TIMEOUT) == 1


@pytest.mark.parametrize(
    ("framing", "end"),
    [
        (b"Transfer-Encoding: chunked", lambda client: client.send(b"no chunk\r\n")),
        (b"Content-Length: 5", lambda client: client.end()),
        (b"Content-Length: 5", lambda client: client.send(b"hello" * 2)),
    ],
    ids=["a bad chunk", "an early end", "something behind it"],
)
def test_an_answer_that_waits_to_be_written_with_others_outlives_its_request_s_body(
    framing: bytes, end: Callable[[Client], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "CLOSE", math.inf)
    monkeypatch.setattr(gathering, "TOGETHER", math.inf)
    go = asyncio.Event()

    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def at_once() -> None:
        go.set()
        end(second)

    with Wired(http(app)) as wired:
        wired.start()
        first, second = wired.connect(), wired.connect()
        first.send(GET)
        second.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
        wired.settle()
        wired.loop.call_soon(at_once)
        wired.settle()
        for client in (first, second):
            assert client.received.startswith(b"HTTP/1.1 200")
            client.end()
        wired.settle()
        wired.advance(10)
        wired.assert_idle()
