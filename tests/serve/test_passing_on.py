"""Requests that wait for their turn in one worker, and have it in another."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.kernel.board import Cell
from supervisor.kernel.channel import Channel
from supervisor.messages.wire import MAX_UNREAD
from supervisor.serve.handover import RELIEF
from tests.serve.harness import eventually, read_until
from tests.serve.test_handover import GET, Move, Place, move


class WsgiPlace:
    """An app that says where it runs; `/wait` waits for `release`."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.release = threading.Event()
        self.scopes: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path = environ["PATH_INFO"]
        self.scopes.append(path)
        if path == "/wait":
            self.release.wait(10)
        body = self.name + b" " + path.encode() + b"\n"
        start_response("200 OK", [("content-length", str(len(body)))])
        return [body]


@contextlib.contextmanager
def full(place: Any) -> Iterator[Move]:
    """Two services, of which the first has no room for a request more until its place lets go."""
    kind = "wsgi" if isinstance(place, WsgiPlace) else "asgi"
    room = {"threads": 2} if kind == "wsgi" else {"max_inflight": 2}
    new = type(place)("new")
    with move(place, new, interface=kind, queue_timeout=5.0, **room) as way, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(way.old.connect()).sendall(GET.replace(b"/ ", b"/wait "))
        eventually(lambda: len(place.scopes) == 2)
        yield way
        place.release.set()
        eventually(lambda: way.old.service.inflight == 0)


def lend(way: Move, count: int = 100) -> None:
    """Have the first service lend so many connections, those that hold its room not among them."""
    outlet = Channel.from_fd(os.dup(way.outlet.fileno()))
    way.old.call(lambda: way.old.service.roster.lend(outlet, count))


def waits(way: Move, requests: int) -> None:
    eventually(lambda: way.old.cell(Cell.STARTED) - way.old.cell(Cell.FINISHED) == 2 + requests)


@pytest.fixture(params=[Place, WsgiPlace], ids=["asgi", "wsgi"])
def place(request: pytest.FixtureRequest) -> Any:
    return request.param("old")


def test_a_request_that_waits_for_its_turn_has_it_in_a_worker_with_room(place: Any) -> None:
    with full(place) as way, way.old.connect() as sock:
        sock.sendall(GET.replace(b"/ ", b"/first ") + GET.replace(b"/ ", b"/second "))
        waits(way, 1)
        lend(way)
        handed = way.take_one()
        assert handed.unread.count(b"GET /") == 2
        assert read_until(sock, b"/second\n").count(b"new /") == 2
        assert len(place.scopes) == 2, "nobody else has seen them"
        waits(way, 0)
        assert way.old.cell(Cell.SHED) == way.old.cell(Cell.CUT) == 0
        assert (way.old.cell(Cell.CONNECTIONS), way.new.cell(Cell.CONNECTIONS)) == (2, 1)
        assert way.old.call(lambda: way.old.service.inflight) == 2


def test_one_that_comes_while_connections_are_lent_moves_too(place: Any) -> None:
    with full(place) as way, way.old.connect() as sock:
        sock.sendall(GET.replace(b"/ ", b"/first "))
        waits(way, 1)
        lend(way)
        way.take_one()
        with way.old.connect() as other:
            other.sendall(GET.replace(b"/ ", b"/later "))
            way.take_one()
            assert b"new /later" in read_until(other, b"/later\n")


def test_once_there_is_room_again_nobody_else_moves(place: Any) -> None:
    with full(place) as way, way.old.connect() as sock:
        eventually(lambda: way.old.service.connections == 3)
        lend(way)
        way.take_one()  # the idle one, at once
        place.release.set()
        eventually(lambda: way.old.service.inflight == 0)
        assert way.old.cell(Cell.HANDED_OVER) == 1
        sock.sendall(GET)
        assert b"new /" in read_until(sock, b"/\n")


def test_who_lends_nothing_keeps_all_and_serves_them_in_turn(place: Any) -> None:
    with full(place) as way, way.old.connect() as sock:
        sock.sendall(GET.replace(b"/ ", b"/first "))
        waits(way, 1)
        place.release.set()
        assert b"old /first" in read_until(sock, b"/first\n")
        assert way.take() is None


def stays(way: Move) -> None:
    """The one request that waits there is not given away, though others would be."""
    waits(way, 1)
    lend(way)
    time.sleep(0.1)
    assert way.take() is None


def test_a_request_with_a_body_stays(place: Any) -> None:
    with full(place) as way, way.old.connect() as sock:
        sock.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
        stays(way)
        place.release.set()
        assert b"old /body" in read_until(sock, b"/body\n")


def test_one_that_is_too_long_for_the_queue_stays(place: Any) -> None:
    with full(place) as way, way.old.connect() as sock:
        fillers = b"".join(b"\r\nFiller-%d: " % number + b"f" * (MAX_UNREAD // 8) for number in range(8))
        sock.sendall(GET.replace(b"/ ", b"/long ").replace(b": x", b": x" + fillers))
        stays(way)
        place.release.set()
        assert b"old /long" in read_until(sock, b"/long\n")


def test_while_nobody_takes_one_lies_in_the_queue_and_once_somebody_does_all_go(place: Any) -> None:
    with full(place) as way, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(way.old.connect()) for _ in range(3 * RELIEF)]
        for sock in socks:
            sock.sendall(GET.replace(b"/ ", b"/many "))
        waits(way, 3 * RELIEF)
        lend(way)
        eventually(lambda: way.old.cell(Cell.HANDED_OVER) == 1)
        time.sleep(0.1)
        assert way.old.cell(Cell.HANDED_OVER) == 1

        def all_moved() -> bool:
            way.take()
            return way.old.cell(Cell.HANDED_OVER) == 3 * RELIEF

        eventually(all_moved)
        while way.take() is not None:
            pass
        assert all(b"new /many" in read_until(sock, b"/many\n") for sock in socks)


def test_who_has_gone_meanwhile_is_nobody_s(place: Any) -> None:
    with full(place) as way:
        with way.old.connect() as sock:
            sock.sendall(GET.replace(b"/ ", b"/gone "))
            waits(way, 1)
        eventually(lambda: way.old.cell(Cell.CONNECTIONS) == 2)
        lend(way)
        time.sleep(0.1)
        assert way.take() is None
