"""Connections on their way from one service to another, each with a loop of its own, through a real queue."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.kernel.board import Cell
from supervisor.kernel.channel import Channel
from supervisor.messages.wire import HandOver, handed_over
from supervisor.serve.handover import BATCH
from supervisor.serve.limits import Limits
from tests.serve.harness import Harness, eventually, read_all, read_until, split_answers, wsgi_echo

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Place:
    """An app that says where it runs; `/wait` waits for `release`, and `/parts` streams around it."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.release = threading.Event()
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        self.scopes.append(scope)
        if scope["path"] == "/fail":
            raise ValueError("on purpose")
        body = self.name + b" " + scope["path"].encode() + b"\n"
        if scope["path"] == "/wait":
            await asyncio.to_thread(self.release.wait, 10)
        headers = [] if scope["path"] == "/parts" else [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/parts":
            await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
            await asyncio.to_thread(self.release.wait, 10)
        await send({"type": "http.response.body", "body": body})


@dataclass
class Move:
    """From `old` to `new`, through `queue`, of which the test is the reader."""

    old: Harness
    new: Harness
    outlet: Channel
    queue: Channel

    def begin(self, linger: float | None = None) -> None:
        self.old.call(lambda: self.old.service.drain(linger, self.outlet))

    def take(self) -> HandOver | None:
        """Have the new service take one connection, if one waits."""
        try:
            received = self.queue.receive()
        except BlockingIOError:
            return None
        assert received is not None
        data, (fd,) = received
        handed = handed_over(data)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        self.new.call(lambda: self.new.service.adopt(sock, handed))
        return handed

    def take_one(self) -> HandOver:
        taken: list[HandOver] = []

        def took() -> bool:
            if (handed := self.take()) is not None:
                taken.append(handed)
            return bool(taken)

        eventually(took)
        return taken[0]


@contextlib.contextmanager
def move(old: Any = None, new: Any = None, /, **options: Any) -> Iterator[Move]:
    outlet, queue = Channel.pair()
    with (
        contextlib.closing(_copy(outlet)),  # the master's, with which the queue lives on
        contextlib.closing(outlet),
        contextlib.closing(queue),
        Harness(old or Place("old"), **options) as before,
        Harness(new or Place("new"), **options) as after,
    ):
        yield Move(before, after, outlet, queue)


def _copy(channel: Channel) -> Channel:
    return Channel.from_fd(os.dup(channel.fileno()))


def ask(sock: socket.socket, path: str = "/") -> bytes:
    """The whole answer, which ends with its path on a line."""
    sock.sendall(GET.replace(b"/ ", path.encode() + b" ", 1))
    return read_until(sock, path.encode() + b"\n")


def test_an_idle_connection_goes_on_with_the_other_service() -> None:
    with move() as way, way.old.connect() as sock:
        assert ask(sock).endswith(b"old /\n")
        way.begin()
        way.take_one()
        for _ in range(3):
            answer = ask(sock)
            assert answer.endswith(b"new /\n")
            assert b"connection: close" not in answer
        eventually(lambda: way.old.empties == 1)
        assert way.old.cell(Cell.HANDED_OVER) == 1
        assert (way.old.cell(Cell.CONNECTIONS), way.new.cell(Cell.CONNECTIONS)) == (0, 1)
        assert (way.old.cell(Cell.ACCEPTED), way.new.cell(Cell.ACCEPTED)) == (1, 0)
        assert way.old.cell(Cell.DRAINED) == 0


def test_a_fresh_connection_moves_too() -> None:
    with move() as way, way.old.connect() as sock:
        eventually(lambda: way.old.service.connections == 1)
        way.begin()
        way.take_one()
        assert ask(sock).endswith(b"new /\n")


def test_a_request_that_comes_while_nobody_has_the_connection_waits_in_its_socket() -> None:
    with move() as way, way.old.connect() as sock:
        ask(sock)
        way.begin()
        eventually(lambda: way.old.service.connections == 0)
        sock.sendall(GET)
        way.take_one()
        assert read_until(sock, b"/\n").endswith(b"new /\n")


@pytest.mark.parametrize("path", ["/wait", "/parts"])
def test_a_connection_in_use_moves_once_its_answer_is_out(path: str) -> None:
    app = Place("old")
    with move(app) as way, way.old.connect() as sock:
        sock.sendall(GET.replace(b"/ ", path.encode() + b" "))
        eventually(lambda: way.old.service.inflight == 1)
        way.begin()
        way.old.call(lambda: None)
        assert way.take() is None
        app.release.set()
        way.take_one()
        answer = read_until(sock, b"0\r\n\r\n" if path == "/parts" else b"/wait\n")
        assert b"old " in answer
        assert b"connection: close" not in answer
        assert ask(sock).endswith(b"new /\n")


def test_a_failure_of_the_app_s_closes_no_connection(capfd: pytest.CaptureFixture[str]) -> None:
    app = Place("old")
    with move(app) as way, way.old.connect() as sock, way.old.connect() as other:
        other.sendall(GET.replace(b"/ ", b"/wait "))
        sock.sendall(GET[:5])
        eventually(lambda: way.old.service.inflight == 1)
        eventually(lambda: any(each._rest for each in way.old.service.roster))
        way.begin()
        sock.sendall(b"fail" + GET[5:])
        way.take_one()
        answer = read_until(sock, b"\r\n\r\n")
        assert b" 500 " in answer
        assert b"connection: close" not in answer
        assert ask(sock).endswith(b"new /\n")
        app.release.set()
    assert "on purpose" in capfd.readouterr().err


def test_half_a_head_stays_until_it_is_answered() -> None:
    with move() as way, way.old.connect() as sock:
        sock.sendall(GET[:9])
        eventually(lambda: any(each._rest for each in way.old.service.roster))
        way.begin()
        way.old.call(lambda: None)
        assert way.take() is None
        sock.sendall(GET[9:])
        way.take_one()
        assert read_until(sock, b"/\n").endswith(b"old /\n")
        assert ask(sock).endswith(b"new /\n")


def test_pipelined_requests_that_were_read_are_answered_before_it_moves() -> None:
    app = Place("old")
    with move(app) as way, way.old.connect() as sock:
        sock.sendall(GET.replace(b"/ ", b"/wait ") + GET * 3)
        eventually(lambda: way.old.service.inflight == 1)
        way.begin()
        app.release.set()
        way.take_one()
        sock.sendall(GET)
        sock.shutdown(socket.SHUT_WR)
        answers = split_answers(read_all(sock))
        assert [body for _, _, body in answers] == [b"old /wait\n", *[b"old /\n"] * 3, b"new /\n"]
        assert not any("connection" in headers for _, headers, _ in answers)


def test_wsgi_connections_move_inline_and_from_threads() -> None:
    for threads in (1, 4):
        with move(wsgi_echo, wsgi_echo, interface="wsgi", threads=threads) as way, way.old.connect() as sock:
            for begins in (False, False, True):
                if begins:
                    way.begin()
                    way.take_one()
                sock.sendall(GET)
                assert read_until(sock, b"GET / ").endswith(b"GET / ")
            assert (way.old.cell(Cell.STARTED), way.new.cell(Cell.STARTED)) == (2, 1)


def test_a_unix_socket_s_connection_moves_with_its_server_s_path(tmp_path: Path) -> None:
    old, new = Place("old"), Place("new")
    outlet, queue = Channel.pair()
    path = str(tmp_path / "web.sock")
    with Harness(old, family=socket.AF_UNIX, path=path) as before, Harness(new) as after, before.connect() as sock:
        way = Move(before, after, outlet, queue)
        ask(sock)
        way.begin()
        way.take_one()
        assert ask(sock).endswith(b"new /\n")
        for key in ("client", "server", "scheme"):
            assert new.scopes[-1][key] == old.scopes[-1][key]
        assert new.scopes[-1]["server"] == (path, None)
    queue.close()


def test_client_and_server_move_along_as_they_are_and_not_as_a_proxy_said_last() -> None:
    old, new = Place("old"), Place("new")
    with move(old, new) as way, way.old.connect() as sock:
        sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\r\n"))
        read_until(sock, b"/\n")
        assert old.scopes[-1]["client"] == ("192.0.2.1", 0)
        way.begin()
        handed = way.take_one()
        assert handed.client == sock.getsockname()
        assert handed.server == way.old.address
        ask(sock)
        assert (new.scopes[-1]["client"], new.scopes[-1]["scheme"]) == (sock.getsockname(), "http")
        sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.2\r\n\r\n"))
        read_until(sock, b"/\n")
        assert new.scopes[-1]["client"] == ("192.0.2.2", 0), "the peer is still a trusted one"


def test_what_a_proxy_header_said_holds_on_and_no_other_is_waited_for() -> None:
    old, new = Place("old"), Place("new")
    with move(old, new, proxy_protocol=True) as way, way.old.connect() as sock:
        sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 443\r\n")
        ask(sock)
        way.begin()
        way.take_one()
        ask(sock)
        assert new.scopes[-1]["client"] == old.scopes[-1]["client"] == ("192.0.2.7", 1234)
        assert new.scopes[-1]["server"] == ("192.0.2.8", 443)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
@pytest.mark.parametrize(
    ("header", "believed"), [(b"PROXY UNKNOWN\r\n", False), (b"PROXY TCP4 127.0.0.1 127.0.0.1 1234 443\r\n", True)]
)
def test_who_was_not_named_by_a_proxy_header_is_believed_no_more_after_a_move(
    tmp_path: Path, family: socket.AddressFamily, header: bytes, believed: bool
) -> None:
    old, new = Place("old"), Place("new")
    outlet, queue = Channel.pair()
    path = str(tmp_path / "s") if family == socket.AF_UNIX else None
    with (
        Harness(old, family=family, path=path, proxy_protocol=True) as before,
        Harness(new, proxy_protocol=True) as after,
        before.connect() as sock,
    ):
        way = Move(before, after, outlet, queue)
        sock.sendall(header)
        ask(sock)
        way.begin()
        way.take_one()
        sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"))
        read_until(sock, b"/\n")
        assert new.scopes[-1]["client"] == (("192.0.2.1", 0) if believed else old.scopes[-1]["client"])
    queue.close()


def test_the_time_that_a_connection_may_still_be_idle_moves_along() -> None:
    with move(limits=Limits(keepalive=1.0)) as way, way.old.connect() as sock:
        ask(sock)
        began = time.monotonic()
        way.begin()
        handed = way.take_one()
        assert 0.0 < handed.until - time.monotonic() < 2.5
        assert sock.recv(1) == b""
        assert time.monotonic() - began < 4.0


def test_the_requests_that_a_connection_has_had_count_on() -> None:
    with move(keepalive_requests=3) as way, way.old.connect() as sock:
        assert b"connection: close" not in ask(sock)
        way.begin()
        assert way.take_one().asked == 1
        assert b"connection: close" not in ask(sock)
        assert b"connection: close" in ask(sock)


@pytest.mark.parametrize("until", [-1e300, 1e300, float("nan"), float("inf")])
def test_a_deadline_that_makes_no_sense_is_bounded(until: float) -> None:
    with move() as way:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        way.new.call(lambda: way.new.service.adopt(theirs, HandOver("http", None, None, until)))
        with ours:
            assert ask(ours).endswith(b"new /\n")
        eventually(lambda: way.new.service.connections == 0)


def test_no_turn_of_the_loop_gives_more_than_a_batch() -> None:
    count = 3 * BATCH
    seen: list[int] = []
    with move() as way, contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(way.old.connect())
        eventually(lambda: way.old.service.connections == count)

        def look() -> None:
            seen.append(way.old.service.connections)
            if seen[-1]:
                way.old.loop.call_soon(look)

        way.old.call(look)
        way.begin()
        eventually(lambda: way.old.service.connections == 0)
        assert max(before - after for before, after in itertools.pairwise(seen)) == BATCH


def test_some_batches_move_and_each_answers_on() -> None:
    count = 3 * BATCH
    with move() as way, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(way.old.connect()) for _ in range(count)]
        for sock in socks:
            ask(sock)
        way.begin()
        for _ in socks:
            way.take_one()
        for sock in socks:
            assert ask(sock).endswith(b"new /\n")
        eventually(lambda: way.old.empties == 1)
        assert way.old.cell(Cell.HANDED_OVER) == way.new.cell(Cell.CONNECTIONS) == count


def fill(outlet: Channel) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            outlet.send(b"x" * 1000)
            count += 1
    return count


def test_while_the_queue_is_full_a_connection_stays_and_is_answered_on() -> None:
    with move() as way, way.old.connect() as sock:
        ask(sock)
        waiting = fill(way.outlet)
        way.begin()
        for _ in range(2):
            answer = ask(sock)
            assert answer.endswith(b"old /\n")
            assert b"connection: close" not in answer
        assert way.old.empties == 0
        for _ in range(waiting):
            way.queue.receive()
        way.take_one()
        assert ask(sock).endswith(b"new /\n")


def test_too_many_descriptors_on_their_way_are_a_full_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    with move() as way, way.old.connect() as sock:
        ask(sock)
        tried = threading.Event()

        def refuse(*_: object) -> None:
            tried.set()
            raise OSError(errno.ETOOMANYREFS, "too many")

        with monkeypatch.context() as patch:
            patch.setattr(way.outlet, "send", refuse)
            way.begin()
            assert tried.wait(5)
            assert ask(sock).endswith(b"old /\n")
        way.take_one()
        assert ask(sock).endswith(b"new /\n")


def test_a_queue_that_nobody_holds_any_more_leaves_the_connections_to_the_drain() -> None:
    with move() as way, way.old.connect() as sock, way.old.connect() as other:
        ask(sock)
        ask(other)
        way.queue.close()
        way.begin()
        for each in (sock, other):
            each.sendall(GET)
            assert b"connection: close" in read_all(each)
            each.close()
        eventually(lambda: way.old.empties == 1)
        assert way.old.cell(Cell.DRAINED) == 2


def test_who_has_given_stays_until_all_was_taken() -> None:
    with move() as way, way.old.connect() as sock:
        ask(sock)
        way.begin()
        eventually(lambda: way.old.service.connections == 0)
        way.old.call(lambda: None)
        assert way.old.empties == 0
        way.take_one()
        eventually(lambda: way.old.empties == 1)


def test_who_finds_what_another_gives_when_its_own_end_has_come_ends_when_that_was_taken() -> None:
    app = Place("old")
    with move(app) as way, way.old.connect() as sock, way.old.connect() as idle:
        ask(idle)
        sock.sendall(GET.replace(b"/ ", b"/wait "))
        eventually(lambda: way.old.service.inflight == 1)
        way.begin()
        way.take_one()
        eventually(lambda: (giver := way.old.service.roster._giver) is not None and giver._timer is None)
        way.outlet.send(b"what another leaving worker gives")
        sock.close()
        app.release.set()
        eventually(lambda: way.old.service.connections == 0)
        way.old.call(lambda: None)
        assert way.old.empties == 0
        way.queue.receive()
        eventually(lambda: way.old.empties == 1)


def test_who_is_told_to_keep_what_is_left_gives_nothing_any_more() -> None:
    app = Place("old")
    with move(app) as way, way.old.connect() as sock, way.old.connect() as idle:
        ask(idle)
        sock.sendall(GET.replace(b"/ ", b"/wait "))
        eventually(lambda: way.old.service.inflight == 1)
        way.begin()
        way.take_one()
        way.old.call(lambda: way.old.service.keep(0.0))
        app.release.set()
        assert b"connection: close" in read_all(sock)
        assert way.take() is None
        sock.close()
        eventually(lambda: way.old.empties == 1)


def test_a_linger_does_not_end_what_can_move() -> None:
    app = Place("old")
    with move(app) as way, way.old.connect() as sock, way.old.connect() as idle:
        ask(idle)
        waiting = fill(way.outlet)
        way.begin(0.1)
        eventually(lambda: way.old.service.roster._closes_idle)
        assert ask(sock).endswith(b"old /\n")
        for _ in range(waiting):
            way.queue.receive()
        way.take_one()
        way.take_one()
        assert ask(idle).endswith(b"new /\n")


def test_no_descriptor_is_left_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with move() as way, way.old.connect() as sock, way.old.connect() as other:
            ask(sock)
            ask(other)
            way.begin()
            way.take_one()  # the other one stays in the queue, and ends with it
    assert len(os.listdir("/proc/self/fd")) == before


@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.integers(1, 60), min_size=1, max_size=30), moment=st.integers(0, 29), count=st.integers(1, 6))
def test_however_requests_are_cut_and_whenever_it_moves_each_is_answered_once(
    pieces: list[int], moment: int, count: int
) -> None:
    data = b"".join(GET.replace(b"/ ", b"/%d " % number) for number in range(count))
    with move() as way, way.old.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, size in enumerate([*pieces, len(data)]):
            if number == min(moment, len(pieces)):
                way.begin()
            way.take()
            sock.sendall(data[:size])
            data = data[size:]
        answered = b""
        while answered.count(b"\n") < 6 * count:  # five lines of a head, one of a body
            way.take()
            sock.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                piece = sock.recv(65536)
                assert piece, "the connection was closed"
                answered += piece
        bodies = [body.split()[1] for _, _, body in split_answers(answered)]
        assert bodies == [b"/%d" % number for number in range(count)]
