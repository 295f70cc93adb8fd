"""WSGI requests on the event loop itself, when it has more of them than time."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import Any

import pytest

from supervisor.kernel.board import Cell
from supervisor.serve.wsgi.bridge import WsgiBridge
from supervisor.serve.wsgi.inline import CALM, Inline
from tests.serve.harness import Harness, eventually, read_until

GET = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"


class App:
    """Takes `seconds` for each request, and remembers their paths."""

    def __init__(self, seconds: float = 0.1) -> None:
        self.seconds = seconds
        self.seen: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.seen.append(environ["PATH_INFO"])
        time.sleep(self.seconds)
        start_response("200 OK", [("Content-Length", "4")])
        return [b"done"]


@contextlib.contextmanager
def late(app: App, count: int, **settings: Any) -> Any:
    """A service whose loop has come late, and clients that ask for /0, /1, .. at once."""
    with Harness(app, "wsgi", threads=1, **settings) as harness, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(harness.connect()) for _ in range(count)]
        harness.call(lambda: harness.service.feel(0.5))

        def ask() -> None:
            """While the loop is held up here, so that it finds all of them together."""
            for number, sock in enumerate(socks):
                sock.sendall(GET % b"/%d" % number)

        harness.call(ask)
        yield harness, socks


def inline_of(harness: Harness) -> Inline:
    bridge = harness.service.bridge
    assert isinstance(bridge, WsgiBridge)
    return bridge.inline


def status_of(sock: socket.socket) -> int:
    head = read_until(sock, b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 200"):
        read_until(sock, b"done") if not head.endswith(b"done") else None
    return int(head[9:12])


def test_while_the_loop_is_on_time_a_request_is_run_where_it_is_read() -> None:
    app = App(0.0)
    with Harness(app, "wsgi", threads=1) as harness, harness.connect() as sock:
        sock.sendall(GET % b"/")
        assert status_of(sock) == 200
        assert not harness.service.is_queueing


def test_who_waits_too_long_gets_503_unseen_by_the_app_and_keeps_the_connection() -> None:
    app = App(0.1)
    with late(app, 12, queue_timeout=0.3) as (harness, socks):
        statuses = [status_of(sock) for sock in socks]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) == len(app.seen)
        assert harness.cell(Cell.SHED) == statuses.count(503)
        assert harness.cell(Cell.STARTED) == harness.cell(Cell.FINISHED) == 12
        assert harness.service.inflight == 0
        turned_away = socks[statuses.index(503)]
        turned_away.sendall(GET % b"/again")
        assert status_of(turned_away) == 200


def test_exempt_paths_are_never_turned_away() -> None:
    app = App(0.1)
    with late(app, 12, queue_timeout=0.3, exempt_paths=("/11",)) as (_harness, socks):
        assert status_of(socks[11]) == 200


def test_without_a_queue_timeout_everybody_is_served() -> None:
    app = App(0.05)
    with late(app, 12, queue_timeout=0.0) as (_harness, socks):
        assert [status_of(sock) for sock in socks] == [200] * 12


def test_a_client_that_leaves_the_line_is_not_served() -> None:
    app = App(0.1)
    with late(app, 6, queue_timeout=30.0) as (harness, socks):
        eventually(lambda: app.seen)
        socks[5].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it closes with a reset
        socks[5].close()
        assert [status_of(sock) for sock in socks[:5]] == [200] * 5
        eventually(lambda: harness.service.connections == 5)
        assert "/5" not in app.seen
        assert harness.service.inflight == 0


def test_those_in_line_have_their_turn_in_order() -> None:
    app = App(0.02)
    with late(app, 8, queue_timeout=30.0) as (_harness, socks):
        assert [status_of(sock) for sock in socks] == [200] * 8
        assert app.seen == sorted(app.seen)


def test_after_calm_turns_requests_are_run_where_they_are_read_again() -> None:
    app = App(0.0)
    with late(app, 1, queue_timeout=1.0) as (harness, (sock,)):
        assert status_of(sock) == 200
        inline = inline_of(harness)
        assert inline.is_careful
        for _ in range(CALM):
            sock.sendall(GET % b"/")
            assert status_of(sock) == 200
        assert not inline.is_careful


def test_a_drain_waits_for_those_in_line() -> None:
    app = App(0.1)
    with late(app, 6, queue_timeout=30.0) as (harness, socks):
        harness.call(lambda: harness.service.drain(0.0))
        assert [status_of(sock) for sock in socks] == [200] * 6
        eventually(lambda: harness.empties == 1)


@pytest.mark.parametrize("waited", [0.0, 0.5])
def test_a_connection_that_has_waited_long_to_be_taken_is_a_late_loop(waited: float) -> None:
    with Harness(App(0.0), "wsgi", threads=1) as harness:
        harness.call(lambda: harness.service.kept_waiting(waited))
        assert inline_of(harness).is_careful == bool(waited)
