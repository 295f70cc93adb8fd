"""Requests that wait for their turn: who goes first, who is turned away and how, and what nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from typing import Any

import pytest

from supervisor.kernel.board import Cell
from tests.serve.harness import Harness, answer, eventually, http, read_until, split_answers

GET = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"


class App:
    """Answers `/hold` when it is told to, and everything else at once; notes what it has seen."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.held: list[asyncio.Event] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope["path"]
        self.seen.append(path)
        if path == "/hold":
            self.held.append(asyncio.Event())
            await self.held[-1].wait()
        elif path == "/spin":
            time.sleep(0.01)  # noqa: ASYNC251  # what a busy app does to its loop
        await answer(send, path.encode())

    def release(self) -> None:
        while self.held:
            self.held.pop().set()


def ask(harness: Harness, path: bytes, stack: contextlib.ExitStack, head: bytes = GET) -> socket.socket:
    sock = stack.enter_context(harness.connect())
    sock.sendall(head % path)
    return sock


def status_of(sock: socket.socket) -> tuple[int, dict[str, str]]:
    data = read_until(sock, b"\r\n\r\n")
    head, mark, body = data.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < size:
        body += sock.recv(65536)
    ((status, headers, _body),) = split_answers(head + mark + body)
    return status, headers


@pytest.fixture
def app() -> App:
    return App()


def test_who_waits_too_long_gets_503_with_retry_after_unseen_by_the_app(app: App) -> None:
    with Harness(http(app), max_inflight=1, queue_timeout=0.2) as harness, contextlib.ExitStack() as stack:
        held = ask(harness, b"/hold", stack)
        eventually(lambda: app.held)
        began = time.monotonic()
        waiting = ask(harness, b"/later", stack)
        status, headers = status_of(waiting)
        assert (status, headers["retry-after"]) == (503, "1")
        assert 0.05 < time.monotonic() - began < 1.0
        assert app.seen == ["/hold"]
        assert harness.cell(Cell.SHED) == 1
        assert harness.cell(Cell.ANSWERS_5XX) == 0, "the app is not to blame"
        harness.call(app.release)
        assert status_of(held)[0] == 200
        waiting.sendall(GET % b"/again")
        assert status_of(waiting)[0] == 200, "the connection lives on"
        assert harness.cell(Cell.STARTED) == harness.cell(Cell.FINISHED) == 3
        assert harness.service.inflight == 0


def test_requests_above_max_inflight_have_their_turn_in_order(app: App) -> None:
    with Harness(http(app), max_inflight=1, queue_timeout=30.0) as harness, contextlib.ExitStack() as stack:
        socks = [ask(harness, b"/hold", stack)]
        eventually(lambda: app.held)
        for number in range(5):
            socks.append(ask(harness, b"/%d" % number, stack))
            eventually(lambda: harness.cell(Cell.STARTED) == len(socks))
        assert harness.service.inflight == 1
        assert harness.service.is_queueing
        harness.call(app.release)
        assert [status_of(sock)[0] for sock in socks] == [200] * 6
        assert app.seen == ["/hold", "/0", "/1", "/2", "/3", "/4"]
        eventually(lambda: not harness.service.is_queueing)


def test_exempt_paths_wait_for_nobody(app: App) -> None:
    settings: dict[str, Any] = {"max_inflight": 1, "queue_timeout": 30.0, "exempt_paths": ("/health",)}
    with Harness(http(app), **settings) as harness, contextlib.ExitStack() as stack:
        ask(harness, b"/hold", stack)
        eventually(lambda: app.held)
        ask(harness, b"/waits", stack)
        assert status_of(ask(harness, b"/health", stack))[0] == 200
        assert app.seen == ["/hold", "/health"]
        harness.call(app.release)


def test_when_the_line_has_stood_for_too_long_the_newest_go_first(app: App) -> None:
    with Harness(http(app), max_inflight=1, queue_timeout=4.0) as harness, contextlib.ExitStack() as stack:
        ask(harness, b"/hold", stack)
        eventually(lambda: app.held)
        old = [ask(harness, b"/old", stack) for _ in range(20)]
        eventually(lambda: harness.cell(Cell.SHED) > 0)  # it is overloaded
        new = ask(harness, b"/new", stack)
        eventually(lambda: harness.cell(Cell.STARTED) == 22)
        harness.call(app.release)
        assert status_of(new)[0] == 200
        assert app.seen[1] == "/new"
        eventually(lambda: harness.cell(Cell.FINISHED) == 22)
        assert {status_of(sock)[0] for sock in old} <= {200, 503}


def test_a_client_that_leaves_the_line_is_not_served(app: App) -> None:
    with Harness(http(app), max_inflight=1, queue_timeout=30.0) as harness, contextlib.ExitStack() as stack:
        ask(harness, b"/hold", stack)
        eventually(lambda: app.held)
        gone = ask(harness, b"/gone", stack)
        eventually(lambda: harness.service.is_queueing)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it closes with a reset
        gone.close()
        eventually(lambda: harness.cell(Cell.FINISHED) == 1)
        assert harness.service.inflight == 1
        harness.call(app.release)
        assert status_of(ask(harness, b"/next", stack))[0] == 200
        assert app.seen == ["/hold", "/next"]
        eventually(lambda: harness.service.inflight == 0)


def test_a_request_with_a_body_is_turned_away_with_its_connection(app: App) -> None:
    post = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf."
    with Harness(http(app), max_inflight=1, queue_timeout=0.2) as harness, contextlib.ExitStack() as stack:
        ask(harness, b"/hold", stack)
        eventually(lambda: app.held)
        status, headers = status_of(ask(harness, b"/post", stack, post))
        assert (status, headers["connection"]) == (503, "close")
        harness.call(app.release)


def test_an_app_that_computes_lets_the_loop_have_its_turn_between_requests(app: App) -> None:
    """Two seconds of requests came at once; a late one does not wait for all of them when it is exempt."""
    settings: dict[str, Any] = {"queue_timeout": 30.0, "exempt_paths": ("/health",)}
    with Harness(http(app), **settings) as harness, contextlib.ExitStack() as stack:
        socks = [ask(harness, b"/spin", stack) for _ in range(200)]
        eventually(lambda: harness.service.is_queueing)
        began = time.monotonic()
        assert status_of(ask(harness, b"/health", stack))[0] == 200
        assert time.monotonic() - began < 2.5
        assert [status_of(sock)[0] for sock in socks] == [200] * 200


def test_a_worker_that_is_cut_ends_those_in_line_too(app: App) -> None:
    with Harness(http(app), max_inflight=1, queue_timeout=30.0) as harness, contextlib.ExitStack() as stack:
        ask(harness, b"/hold", stack)
        eventually(lambda: app.held)
        waiting = ask(harness, b"/waits", stack)
        eventually(lambda: harness.service.is_queueing)
        harness.call(lambda: harness.service.drain(None))
        harness.call(harness.service.cut)
        with contextlib.suppress(ConnectionError):
            assert waiting.recv(100) == b""
        eventually(lambda: harness.empties == 1)
        assert harness.cell(Cell.CUT) == 2
        assert harness.service.inflight == 0


def sleepy(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    if environ["PATH_INFO"] == "/sleep":
        time.sleep(1.0)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def test_wsgi_requests_that_wait_too_long_for_a_thread_get_503_but_for_exempt_ones() -> None:
    settings: dict[str, Any] = {"queue_timeout": 0.2, "exempt_paths": ("/health",)}
    with Harness(sleepy, "wsgi", threads=2, **settings) as harness, contextlib.ExitStack() as stack:
        held = [ask(harness, b"/sleep", stack) for _ in range(2)]
        eventually(lambda: harness.service.is_full())
        waiting = [ask(harness, b"/later", stack) for _ in range(3)]
        health = ask(harness, b"/health", stack)
        for sock in waiting:
            status, headers = status_of(sock)
            assert (status, headers["retry-after"]) == (503, "1")
        assert [status_of(sock)[0] for sock in (*held, health)] == [200] * 3
        waiting[0].sendall(GET % b"/again")
        assert status_of(waiting[0])[0] == 200
        assert harness.cell(Cell.SHED) == 3
        eventually(lambda: harness.service.inflight == 0)
        assert harness.cell(Cell.STARTED) == harness.cell(Cell.FINISHED)


def test_a_wsgi_upload_that_nobody_has_room_for_is_turned_away_whole() -> None:
    post = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nwhole"
    with Harness(sleepy, "wsgi", threads=2, queue_timeout=0.2) as harness, contextlib.ExitStack() as stack:
        held = [ask(harness, b"/sleep", stack) for _ in range(2)]
        eventually(lambda: harness.service.is_full())
        waiting = ask(harness, b"/post", stack, post)
        assert status_of(waiting)[0] == 503
        assert [status_of(sock)[0] for sock in held] == [200, 200]
        waiting.sendall(GET % b"/again")
        assert status_of(waiting)[0] == 200
