"""Clients that leave, stop halfway or speak nonsense, and apps that raise, on a service in this process: nothing is
written to stderr but one complaint for an app's own failure, nothing is left, and the service serves on."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from supervisor.config.settings import Interface
from supervisor.kernel.board import Cell
from tests.disturbances import (
    DEPARTURES,
    FAILURES,
    GARBAGE,
    HALF_CLOSES,
    HEAD,
    WEBSOCKET,
    Deed,
    noise_of,
    read_rest,
    reset,
    words_of_ours,
)
from tests.processes.disturbed_app import asgi, wsgi
from tests.serve.harness import Harness, eventually, split_answers

DEEDS = DEPARTURES | HALF_CLOSES | GARBAGE


@pytest.fixture(scope="module", params=["asgi", "wsgi", "inline"])
def server(request: pytest.FixtureRequest) -> Iterator[Harness]:
    inline = request.param == "inline"
    app: Any = asgi if request.param == "asgi" else wsgi
    interface: Interface = "asgi" if request.param == "asgi" else "wsgi"
    with Harness(app, interface, threads=1 if inline else 4, body_timeout=0.5) as harness:
        yield harness


def dialler(server: Harness) -> Callable[[], socket.socket]:
    def dial() -> socket.socket:
        return socket.create_connection(server.address, 10)

    return dial


def is_quiet(server: Harness) -> bool:
    service = server.service
    return service.connections == 0 and service.inflight == 0 and not server.call(service.bridge.is_running)


def serves(server: Harness) -> None:
    """Two requests on one connection, answered as ever."""
    data = server.ask((HEAD % b"/") * 2)
    assert [status for status, _, _ in split_answers(data)] == [200, 200]


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_no_client_makes_the_server_say_anything(
    server: Harness, capfd: pytest.CaptureFixture[str], deed: Deed
) -> None:
    deed(dialler(server))
    serves(server)
    eventually(lambda: is_quiet(server))
    assert server.cell(Cell.STARTED) == server.cell(Cell.FINISHED) + server.cell(Cell.CUT)
    assert noise_of(capfd.readouterr().err) == []


@pytest.mark.parametrize("path", FAILURES)
@pytest.mark.parametrize("takes", ["the whole answer", "nothing"])
def test_an_app_that_raises_is_told_about_once_with_its_own_traceback(
    server: Harness, capfd: pytest.CaptureFixture[str], path: str, takes: str
) -> None:
    with dialler(server)() as sock:
        sock.sendall(HEAD % path.encode())
        if takes == "the whole answer":
            sock.shutdown(socket.SHUT_WR)
            answer = read_rest(sock)
            begun = b"HTTP/1.1 200 OK\r\n" if path in ("/raise-in-body", "/raise-behind") else b"HTTP/1.1 500 "
            assert answer.startswith(begun)
    serves(server)
    eventually(lambda: is_quiet(server))
    said = capfd.readouterr().err
    assert words_of_ours(said) == [f"holdfast: GET {path}: the app raised an exception"]
    assert said.count("Traceback (most recent call last)") == 1
    assert f"OnPurposeError: {path}\n" in said


def test_an_app_that_raises_when_its_client_has_gone_is_told_about_once(capfd: pytest.CaptureFixture[str]) -> None:
    with Harness(asgi) as server:
        with server.connect() as sock:
            sock.sendall(HEAD % b"/raise-when-gone")
            eventually(lambda: server.service.inflight == 1)
        eventually(lambda: is_quiet(server))
        serves(server)
    said = capfd.readouterr().err
    assert words_of_ours(said) == ["holdfast: GET /raise-when-gone: the app raised an exception"]
    assert said.count("Traceback (most recent call last)") == 1


@pytest.mark.parametrize("said", [HEAD % b"/stream?10", WEBSOCKET % b"/stream?10"], ids=["answer", "WebSocket"])
def test_an_app_that_sends_on_and_on_to_who_takes_it_all_leaves_others_their_turn_and_hears_of_the_end(
    server: Harness, capfd: pytest.CaptureFixture[str], said: bytes
) -> None:
    over = threading.Event()

    def take_all() -> None:
        with dialler(server)() as sock:
            sock.sendall(said)
            while not over.is_set():
                assert sock.recv(1 << 20)

    taker = threading.Thread(target=take_all)
    taker.start()
    try:
        eventually(lambda: server.service.connections == 1)
        for _ in range(3):
            serves(server)
    finally:
        over.set()
        taker.join(10)
    eventually(lambda: is_quiet(server))
    assert noise_of(capfd.readouterr().err) == []


def test_an_app_that_sends_nothing_on_and_on_leaves_others_their_turn(capfd: pytest.CaptureFixture[str]) -> None:
    with Harness(asgi) as server:
        with dialler(server)() as sock:
            sock.sendall(HEAD % b"/stream?0")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
            serves(server)
            reset(sock)
        eventually(lambda: is_quiet(server))
    assert noise_of(capfd.readouterr().err) == []


def test_many_at_once_leave_nothing(server: Harness, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        with contextlib.ExitStack() as opened:
            for said in (b"", b"GET / HT", HEAD % b"/stream", HEAD % b"/wait", b"\0" * 100) * 10:
                sock = opened.enter_context(dialler(server)())
                with contextlib.suppress(ConnectionError):
                    sock.sendall(said)
        serves(server)
    eventually(lambda: is_quiet(server))
    assert noise_of(capfd.readouterr().err) == []
