"""A load client that can't fail proves nothing: here are servers that err in every way, and it has to see each."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.processes.load import LOSSES, Load, LoadError, Report

GAP_S = 0.5


class Request(NamedTuple):
    """What a server here gets to see: how many it has answered before, in all and on this connection."""

    sock: socket.socket
    body: bytes
    number: int
    earlier: int


Behaviour = Callable[[Request], bool]  # answers, well or badly; True keeps the connection


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Reads whole requests, a thread a connection, and lets its behaviour do the rest."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behaviour: Behaviour, address: str | tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.address_family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.behaviour = behaviour
        self.answered = 0
        super().__init__(address, Handler)  # type: ignore[arg-type]  # typeshed knows of no unix address here

    @property
    def address(self) -> str:
        name = self.socket.getsockname()
        return f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Server)
        sock: socket.socket = self.connection
        for earlier in range(1_000_000):
            with contextlib.suppress(ConnectionError):
                body = self.read()
                if body is None:
                    return
                self.server.answered += 1
                if self.server.behaviour(Request(sock, body, self.server.answered, earlier)):
                    continue
            return

    def read(self) -> bytes | None:
        """The body of a POST or the query of a GET; None at the end."""
        first, length = self.rfile.readline().split(), 0
        if not first:
            return None
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            name, _, value = line.lower().partition(b":")
            length = int(value) if name == b"content-length" else length
        return self.rfile.read(length) if first[0] == b"POST" else first[1].partition(b"?")[2]


def answer(request: Request, body: bytes | None = None, status: int = 200, headers: bytes = b"") -> bool:
    body = request.body if body is None else body
    head = b"HTTP/1.1 %d %b\r\ncontent-length: %d\r\n" % (status, HTTPStatus(status).phrase.encode(), len(body))
    request.sock.sendall(head + headers + b"\r\n" + body)
    return True


def chunked(request: Request) -> bool:
    half = len(request.body) // 2
    head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (request.body[:half], request.body[half:]) if piece]
    request.sock.sendall(head + b"".join(chunks) + b"0\r\n\r\n")
    return True


def to_the_end(request: Request) -> bool:
    request.sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + request.body)
    return False


def every_tenth(bad: Behaviour) -> Behaviour:
    return lambda request: bad(request) if request.number % 10 == 0 else answer(request)


def reset(request: Request) -> bool:
    request.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.sock.close()
    return False


def half_an_answer(request: Request) -> bool:
    request.sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
    return False


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def report_on(behaviour: Behaviour, requests: int = 400, **plan: float) -> Report:
    with serving(Server(behaviour)) as server:
        load = Load(server.address, connections=8, max_requests=requests, max_seconds=20)
        for name, value in plan.items():
            setattr(load, name, value)
        with load:
            wait_until(lambda: load.snapshot().requests >= requests)
            return load.stop()


def wait_until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def assert_accounted(report: Report) -> None:
    assert report.requests == report.ok + report.lost
    assert report.lost == sum(report.lost_by.values())
    assert set(report.lost_by) == set(LOSSES)


@pytest.mark.parametrize("behaviour", [answer, chunked, to_the_end])
def test_a_good_server_loses_nothing(behaviour: Behaviour) -> None:
    report = report_on(behaviour)
    assert_accounted(report)
    assert report.lost == 0, report
    assert report.ok == 400
    assert 0 < report.p50_s <= report.p99_s
    assert report.p99_s - 50e-6 <= report.max_s
    assert report.requests_per_s > 0


def test_fresh_and_kept_connections_are_as_many_as_planned() -> None:
    assert report_on(answer, fresh=0.0).connects == 8
    assert report_on(answer, fresh=1.0).connects == 400


def test_answers_are_counted_by_who_gave_them() -> None:
    report = report_on(
        lambda request: answer(request, headers=b"x-pid: %d\r\nX-Release: two\r\n" % (request.number % 2))
    )
    assert sum(report.pids.values()) == 400
    assert set(report.pids) == {"0", "1"}
    assert report.releases == {"two": 400}


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (reset, "reset"),
        (half_an_answer, "closed"),
        (lambda request: answer(request, status=503), "5xx"),
        (lambda request: answer(request, status=404), "wrong"),
        (lambda request: answer(request, body=b"another's"), "wrong"),
        (lambda request: bool(request.sock.sendall(b"SMTP ready\r\n\r\n")), "wrong"),
    ],
    ids=["reset", "half", "503", "404", "body", "protocol"],
)
def test_each_bad_answer_is_one_loss_of_its_kind(behaviour: Behaviour, kind: str) -> None:
    report = report_on(every_tenth(behaviour))
    assert_accounted(report)
    assert {name: count for name, count in report.lost_by.items() if count} == {kind: 40}, report
    assert report.ok == 360
    assert len(report.losses) == 20
    assert report.losses[0]["kind"] == kind


def test_a_request_on_a_connection_that_closes_without_a_word_is_lost_and_not_retried() -> None:
    report = report_on(lambda request: request.earlier < 3 and answer(request), fresh=0.0, connections=1)
    assert_accounted(report)
    assert report.lost_by["closed"] == report.lost == report.lost_reused == 100
    assert report.connects == 100


def test_a_connection_found_closed_before_the_next_request_is_no_loss() -> None:
    report = report_on(lambda request: answer(request) and False, requests=60, fresh=0.0, connections=2, pause_s=0.05)
    assert_accounted(report)
    assert report.closed_idle > 10


def test_a_connection_that_ends_as_announced_is_no_loss() -> None:
    report = report_on(lambda request: answer(request, headers=b"connection: close\r\n") and False, fresh=0.0)
    assert report.lost == 0, report
    assert report.closed_politely == report.connects == 400


def test_a_server_that_is_not_there_refuses() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        with Load(f"127.0.0.1:{taken.getsockname()[1]}", connections=2, max_requests=10) as load:
            wait_until(lambda: load.snapshot().requests >= 10)
            report = load.stop()
    assert_accounted(report)
    assert report.lost_by["refused"] == report.lost == 10
    assert report.ok == 0


def test_a_missing_unix_socket_refuses(tmp_path: Path) -> None:
    with Load(f"unix:{tmp_path}/none", connections=1, max_requests=3) as load:
        wait_until(lambda: load.snapshot().requests >= 3)
        assert load.stop().lost_by["refused"] == 3


def test_no_answer_in_time_is_a_timeout() -> None:
    def keep_silent(request: Request) -> bool:
        time.sleep(1)
        return False

    report = report_on(every_tenth(keep_silent), requests=20, timeout_s=0.5)
    assert_accounted(report)
    assert report.lost_by["timeout"] == report.lost == 2


def test_a_gap_in_which_nobody_is_answered_is_found_and_timed() -> None:
    pausing = threading.Lock()

    def pause_once(request: Request) -> bool:
        with pausing:
            if request.number == 100:
                time.sleep(GAP_S)
        return answer(request)

    report = report_on(pause_once)
    assert report.lost == 0, report
    assert GAP_S * 0.95 < report.longest_gap_s < GAP_S + 0.3
    assert 0 < report.longest_gap_at_s < report.seconds


def test_a_gap_that_is_still_open_counts() -> None:
    silent = threading.Event()

    def fall_silent(request: Request) -> bool:
        if request.number > 50:
            silent.wait(10)
        return answer(request)

    with serving(Server(fall_silent)) as server, Load(server.address, connections=2) as load:
        wait_until(lambda: load.snapshot().longest_gap_s > GAP_S)
        assert load.window().ok >= 50
        silent.set()
        assert load.stop().lost == 0


def test_windows_add_up_to_the_whole() -> None:
    with serving(Server(every_tenth(reset))) as server, Load(server.address, connections=4) as load:
        wait_until(lambda: load.snapshot().requests >= 100)
        first = load.window()
        wait_until(lambda: load.snapshot().requests >= first.requests + 100)
        snapshot, second = load.snapshot(), load.window()
        assert 0 < first.lost < snapshot.lost
        assert first.requests + second.requests >= snapshot.requests
        assert second.seconds < snapshot.seconds


def test_a_unix_socket_with_a_short_queue_is_waited_for(tmp_path: Path) -> None:
    class ShortQueue(Server):
        request_queue_size = 0

    short = ShortQueue(answer, str(tmp_path / "socket"))
    with serving(short) as server, Load(server.address, connections=16, fresh=1.0, max_requests=300) as load:
        wait_until(lambda: load.snapshot().requests >= 300)
        report = load.stop()
    assert report.lost == 0, report


def test_a_page_that_echoes_nothing_can_be_loaded_too() -> None:
    report = report_on(lambda request: answer(request, body=b"a page"), echo=False)
    assert report.lost == 0, report


def test_a_load_that_dies_raises_instead_of_reporting() -> None:
    with serving(Server(answer)) as server, Load(server.address, connections=1) as load:
        assert load._process is not None
        load._process.kill()
        with pytest.raises(LoadError, match="status -9"):
            load.stop()
