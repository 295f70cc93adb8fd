"""Draining, cutting, probing and starting a service."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import pytest

from supervisor.errors import AppError
from supervisor.kernel.board import Cell
from supervisor.serve.limits import Limits
from tests.serve.harness import Harness, answer, echo, eventually, http, read_all, read_until, split_answers, wsgi_echo

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Gate:
    """An app that answers when `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()

    async def asgi(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await asyncio.to_thread(self.release.wait, 10)
        await echo(scope, receive, send)

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.release.wait(10)
        return wsgi_echo(environ, start_response)


def drain(server: Harness, linger: float | None) -> None:
    server.call(lambda: server.service.drain(linger))


def test_a_drain_of_nothing_is_over_at_once() -> None:
    with Harness(echo) as server:
        drain(server, None)
        eventually(lambda: server.empties == 1)
        drain(server, 0.0)
        assert server.empties == 1


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_a_request_under_way_is_finished_and_says_that_it_is_the_last(interface: Any) -> None:
    gate = Gate()
    with Harness(getattr(gate, interface), interface) as server, server.connect() as sock:
        sock.sendall(GET)
        eventually(lambda: server.service.inflight == 1)
        drain(server, 0.0)
        assert server.empties == 0
        gate.release.set()
        data = read_all(sock)
        assert b"connection: close" in data
        assert data.endswith(b"GET / ")
        sock.close()
        eventually(lambda: server.empties == 1)
        assert server.cell(Cell.FINISHED) == 1


def test_idle_connections_are_closed_after_the_linger() -> None:
    with Harness(echo) as server, server.connect() as sock:
        sock.sendall(GET)
        read_until(sock, b"GET / ")
        started = time.monotonic()
        drain(server, 0.3)
        assert read_all(sock) == b""
        assert time.monotonic() - started >= 0.25
        sock.close()
        eventually(lambda: server.empties == 1)


@pytest.mark.parametrize("linger", [None, 5.0])
def test_a_request_that_comes_in_the_linger_is_answered(linger: float | None) -> None:
    with Harness(echo) as server, server.connect() as idle, server.connect() as fresh:
        idle.sendall(GET)
        read_until(idle, b"GET / ")
        eventually(lambda: server.service.connections == 2)
        drain(server, linger)
        for sock in (idle, fresh):
            sock.sendall(GET)
            assert b"connection: close" in read_all(sock)
            sock.close()
        eventually(lambda: server.empties == 1)


def test_without_a_linger_idle_connections_live_to_their_own_deadline() -> None:
    with Harness(echo, limits=Limits(keepalive=0.6)) as server, server.connect() as sock:
        sock.sendall(GET)
        read_until(sock, b"GET / ")
        drain(server, None)
        assert read_all(sock) == b""
        sock.close()
        eventually(lambda: server.empties == 1)


def test_half_a_head_is_not_idle() -> None:
    with Harness(echo) as server, server.connect() as sock:
        sock.sendall(GET[:10])
        eventually(lambda: any(c._rest for c in server.service.roster))
        drain(server, 0.0)
        server.call(lambda: None)
        sock.sendall(GET[10:])
        assert b"connection: close" in read_all(sock)


def test_the_last_of_pipelined_requests_says_that_it_is_the_last() -> None:
    gate = Gate()
    with Harness(gate.asgi) as server, server.connect() as sock:
        sock.sendall(GET * 3)
        eventually(lambda: server.service.inflight == 1)
        drain(server, 0.0)
        gate.release.set()
        answers = split_answers(read_all(sock))
        assert ["connection" in headers for _, headers, _ in answers] == [False, False, True]


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_a_cut_ends_what_is_left_and_names_it(capfd: pytest.CaptureFixture[str], interface: Any) -> None:
    gate = Gate()
    with Harness(getattr(gate, interface), interface, threads=30) as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(server.connect()) for _ in range(25)]
        for number, sock in enumerate(socks):
            sock.sendall(GET.replace(b"/ ", b"/%d " % number))
        eventually(lambda: server.service.inflight == 25)
        drain(server, 0.0)
        assert server.call(server.service.cut) == 25
        for sock in socks:
            assert sock.recv(100) == b""
            sock.close()
        eventually(lambda: server.empties == 1)
        assert server.cell(Cell.CUT) == 25
        assert server.cell(Cell.STARTED) == 25
        assert server.cell(Cell.FINISHED) == 0
        gate.release.set()
        eventually(lambda: server.service.inflight == 0)
    told = capfd.readouterr().err
    assert told.count(": cut after 0.") == 20
    assert "holdfast: 5 more were cut\n" in told


def test_app_code_that_has_outlived_its_answer_is_named_when_it_is_cut(capfd: pytest.CaptureFixture[str]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await echo(scope, receive, send)
        await asyncio.sleep(60)

    with Harness(app) as server, server.connect() as sock:
        sock.sendall(GET.replace(b"/ ", b"/later "))
        read_until(sock, b"GET /later ")
        assert server.call(server.service.cut) == 0
        assert server.cell(Cell.CUT) == 0
    assert "holdfast: GET /later: its app code cut after 0." in capfd.readouterr().err


def test_connections_that_are_cut_are_told_from_those_that_are_only_ended() -> None:
    gate = Gate()
    with Harness(gate.asgi) as server, server.connect() as busy, server.connect() as idle, server.connect() as begun:
        eventually(lambda: server.service.connections == 3)
        busy.sendall(GET)
        begun.sendall(GET[:7])
        eventually(lambda: server.service.inflight == 1)
        eventually(lambda: any(each._rest for each in server.service.roster))
        drain(server, None)
        server.call(server.service.cut)
        assert idle.recv(1) == b""
        eventually(lambda: server.service.connections == 0)
        assert (server.cell(Cell.CONNECTIONS_CUT), server.cell(Cell.DRAINED)) == (2, 1)
        gate.release.set()


@pytest.mark.parametrize("linger", [None, 0.0])
def test_an_asgi_app_can_wait_for_the_drain(linger: float | None) -> None:
    events: list[Any] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        events.append(scope["extensions"]["holdfast"]["draining"])
        if scope["path"] == "/wait":
            await events[-1].wait()
        await echo(scope, receive, send)

    with Harness(app) as server, server.connect() as sock, server.connect() as waiting:
        sock.sendall(GET)
        read_until(sock, b"GET / ")
        waiting.sendall(GET.replace(b"/ ", b"/wait "))
        eventually(lambda: len(events) == 2)
        assert events[0] is events[1], "all requests share it"
        assert not events[0].is_set()
        drain(server, linger)
        assert read_all(waiting).endswith(b"GET /wait ")


@pytest.mark.parametrize("threads", [1, 4])
def test_a_wsgi_app_can_look_at_the_drain_or_wait_for_it(threads: int) -> None:
    seen: list[bool] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        draining = environ["holdfast.draining"]
        assert draining is environ["holdfast.trace"]["draining"]
        seen.append(draining.is_set())
        if environ["PATH_INFO"] == "/wait":
            draining.wait(10)
        return wsgi_echo(environ, start_response)

    with Harness(app, "wsgi", threads=threads) as server, server.connect() as sock, server.connect() as late:
        sock.sendall(GET if threads == 1 else GET.replace(b"/ ", b"/wait "))
        eventually(lambda: seen)
        eventually(lambda: server.service.connections == 2)
        drain(server, None)
        if threads > 1:
            assert read_all(sock).endswith(b"GET /wait ")
        late.sendall(GET)
        assert read_all(late).endswith(b"GET / ")
        assert seen == [False, True]


def test_a_cut_cancels_the_app_s_coroutine() -> None:
    ended: list[BaseException] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            ended.append(error)
            raise

    with Harness(app) as server, server.connect() as sock:
        sock.sendall(GET)
        eventually(lambda: server.service.inflight == 1)
        server.call(server.service.cut)
        eventually(lambda: ended)
        eventually(lambda: server.service.inflight == 0)


@pytest.mark.parametrize(("app", "interface"), [(echo, "asgi"), (wsgi_echo, "wsgi")])
def test_a_probe_goes_through_the_app_and_is_not_counted(app: object, interface: Any) -> None:
    with Harness(app, interface) as server:
        assert asyncio.run_coroutine_threadsafe(server.service.probe("/health?x"), server.loop).result(5) == 200
        assert asyncio.run_coroutine_threadsafe(server.service.probe("bad path"), server.loop).result(5) == 400
        assert list(server.row) == [0] * len(server.row)
        assert server.service.connections == 0


def test_a_probe_waits_for_the_answer_behind_early_hints() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        for number in range(3):
            await send({"type": "http.response.early_hint", "links": [b"</%d>" % number]})
            await asyncio.sleep(0.01)
        await answer(send, b"x" * 100_000, status=503)

    with Harness(http(app)) as server:
        assert asyncio.run_coroutine_threadsafe(server.service.probe("/"), server.loop).result(5) == 503


def test_a_failed_startup_is_the_app_s_error() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "Traceback\n  ...\nno database\n"})

    with pytest.raises(AppError, match=r"^lifespan startup failed: no database$"), Harness(app):
        raise AssertionError("it must not start")


def test_the_shutdown_is_told_and_waited_for() -> None:
    told: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        for _ in range(2):
            kind = (await receive())["type"]
            await asyncio.sleep(0.01)
            told.append(kind)
            await send({"type": kind + ".complete"})

    with Harness(app):
        assert told == ["lifespan.startup"]
    assert told == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize("kind", ["raises", "returns"])
def test_an_app_without_lifespan_is_served(kind: str) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await echo(scope, receive, send)
        elif kind == "raises":
            raise ValueError("what is this?")

    with Harness(app) as server:
        assert split_answers(server.ask(GET))[0][0] == 200


@pytest.mark.parametrize("kind", ["raises", "says"])
def test_a_failed_shutdown_is_logged(capfd: pytest.CaptureFixture[str], kind: str) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        if kind == "raises":
            raise ValueError("on purpose")
        await send({"type": "lifespan.shutdown.failed", "message": "on purpose"})

    with Harness(app):
        pass
    assert "on purpose" in capfd.readouterr().err


def test_the_capacity_of_wsgi_is_its_threads() -> None:
    with Harness(wsgi_echo, "wsgi", threads=3, max_inflight=10) as server:
        assert server.service.capacity == 3
    with Harness(wsgi_echo, "wsgi", threads=30, max_inflight=10) as server:
        assert server.service.capacity == 10
    with Harness(echo, max_inflight=10) as server:
        assert server.service.capacity == 10
