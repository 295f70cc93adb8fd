"""Answers in quick succession are written together; nothing else about them changes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.kernel.board import Cell, private_row
from supervisor.serve import gathering
from supervisor.serve.gathering import REST, SLOW, TOGETHER, Gathering
from supervisor.serve.http1.connection import Connection, finish_all
from supervisor.serve.http1.state import BUSY
from supervisor.serve.tally import Tally
from tests.serve.stepped import Client, SteppedLoop, Wired

CIRCUMSTANCES = tuple(
    product((False, True), (False, True), (200, 404, 503), (b"", b"GET"), (False, True), (False, True), (False, True))
)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Answering:
    """A connection whose app has answered."""

    def __init__(self, name: str, done: list[str]) -> None:
        self.name = name
        self.done = done
        self.exchange: object | None = object()
        self.outgoing: list[bytes] = []
        self.transport = self
        self.tally = self.service = SimpleNamespace(access=None)
        self.write_paused = True  # so that `finish` is asked

    def write(self, data: bytes) -> None:
        self.done.append(f"{self.name} writes {data.decode()}")

    def flush(self) -> None:
        self.done.append(f"{self.name} flushes {b'+'.join(self.outgoing).decode()}")
        self.outgoing.clear()

    def finish(self, data: bytes = b"") -> None:
        self.done.append(f"{self.name} finishes {data.decode()}".rstrip())
        self.exchange = None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gathering, "monotonic", clock)
    return clock


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    yield loop
    loop.close()


@pytest.fixture
def done() -> list[str]:
    return []


@pytest.fixture
def answers(loop: SteppedLoop, done: list[str], clock: Clock) -> Any:
    """Give an answer after so many seconds, for the connection of that name; returns the connection."""
    gathered = Gathering(loop)

    def answer(name: str, seconds: float = 0.00001) -> Answering:
        clock.now += seconds
        connection = Answering(name, done)
        gathered.finish(connection, b"it")  # type: ignore[arg-type]
        return connection

    answer.gathering = gathered  # type: ignore[attr-defined]
    return answer


def test_who_comes_alone_is_answered_at_once(answers: Any, done: list[str]) -> None:
    answers("a")
    answers("b", 1.0)
    assert done == ["a finishes it", "b finishes it"]


def test_what_follows_closely_goes_out_with_the_turn_all_writes_first(
    answers: Any, done: list[str], loop: SteppedLoop
) -> None:
    for name in "abc":
        answers(name)
    assert done == ["a finishes it"]
    loop.run_forever()
    assert done[1:] == ["b writes it", "c writes it", "b finishes", "c finishes"]


def test_nothing_is_held_back_longer_than_it_may_be(answers: Any, done: list[str]) -> None:
    answers("a")
    answers("b")
    answers("c", TOGETHER + 0.00001)
    assert [line for line in done if "writes" in line] == ["b writes it", "c writes it"]
    answers("d")
    assert len(done) == 5  # it begins anew: d waits


def test_after_a_slow_app_nothing_is_held_back_for_a_while(answers: Any, done: list[str]) -> None:
    answers("a")
    answers("b")
    answers("c", SLOW + 0.0001)
    done.clear()
    for name in "def":
        answers(name)
    assert done == ["d finishes it", "e finishes it", "f finishes it"]
    answers("g", REST)
    done.clear()
    answers("h")
    assert done == []


def test_what_was_streamed_before_goes_out_before(answers: Any, done: list[str], loop: SteppedLoop) -> None:
    answers("a")
    answers("b").outgoing.append(b"hint")
    loop.run_forever()
    assert done[1:] == ["b flushes hint+it", "b finishes"]


def test_who_is_lost_meanwhile_gets_nothing(answers: Any, done: list[str], loop: SteppedLoop) -> None:
    answers("a")
    answers("b").exchange = None
    answers("c")
    loop.run_forever()
    assert done[1:] == ["c writes it", "c finishes"]


def test_a_worker_that_leaves_holds_back_nothing(answers: Any, done: list[str]) -> None:
    answers("a")
    answers("b")
    answers.gathering.stop()
    assert done[-1] == "b finishes"
    answers("c")
    assert done[-1] == "c finishes it"


class Finished:
    """A connection whose answer is written, in these circumstances, and what is to be seen of its end, in any order."""

    def __init__(
        self, paused: bool, keep: bool, status: int, rest: bytes, eof: bool, dismisses: bool, reading: bool
    ) -> None:
        self.seen: list[object] = []
        self.row = private_row()
        see = self.seen.append
        tally = Tally(self.row, 2, lambda: see("room"))
        tally.on_error = lambda: see("error")
        service: Any = SimpleNamespace(
            loop=SimpleNamespace(call_soon=lambda call, **_: see(call.__name__)), context=None, tick=100
        )
        service.first_byte_ticks = service.keepalive_ticks = service.closing_ticks = 7
        service.roster = SimpleNamespace(dismisses_idle=dismisses, dismiss=lambda _: see("dismissed"))
        service.access = SimpleNamespace(record=lambda client, _: see(client))
        self.connection = connection = Connection(service, tally)
        self.exchange: Any = SimpleNamespace(keep=keep, status=status)
        connection.exchange, connection.state, connection.client = self.exchange, BUSY, ("127.0.0.1", 1)
        connection.transport = self  # type: ignore[assignment]
        connection.write_paused, connection._rest, connection.eof = paused, rest, eof
        connection._reading = reading
        for _ in range(2):
            tally.start()

    def __getattr__(self, name: str) -> Any:
        return lambda: self.seen.append(name)

    def state(self) -> object:
        it = self.connection
        told = (it.state, it.expires, it.exchange is None, it._rest, it._reading, it._flushing, it.tally.inflight)
        return told, bytes(self.row), sorted(map(str, self.seen))


@pytest.mark.parametrize("circumstances", CIRCUMSTANCES)
def test_who_is_finished_with_others_is_finished_as_alone(circumstances: Any) -> None:
    alone, among = Finished(*circumstances), Finished(*circumstances)
    alone.connection.finish()
    finish_all([among.connection])
    assert among.state() == alone.state()


def test_each_is_counted_where_it_belongs() -> None:
    ordinary = (False, True, 200, b"", False, False, True)
    one, probe, other = (Finished(*ordinary) for _ in range(3))
    other.connection.tally = one.connection.tally
    one.connection.tally.start()
    finish_all([one.connection, probe.connection, other.connection])
    assert [it.connection.tally.inflight for it in (one, probe)] == [1, 1]
    assert [it.row[Cell.FINISHED] for it in (one, probe)] == [2, 1]


async def asgi(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["query_string"]})


async def asgi_after_waiting(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await asyncio.sleep(0)
    await asgi(scope, receive, send)


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", str(len(environ["QUERY_STRING"])))])
    return [environ["QUERY_STRING"].encode()]


@pytest.fixture(params=["asgi", "asgi, after waiting", "wsgi"])
def wired(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wired]:
    """Everything is held back until the turn ends."""
    monkeypatch.setattr(gathering, "CLOSE", math.inf)
    monkeypatch.setattr(gathering, "TOGETHER", math.inf)
    app: Any = {"asgi": asgi, "asgi, after waiting": asgi_after_waiting, "wsgi": wsgi}[request.param]
    with Wired(app, "wsgi" if request.param == "wsgi" else "asgi") as wired:
        yield wired


def connected(wired: Wired, count: int) -> list[Client]:
    return [wired.connect(address=("127.0.0.1", 50000 + number)) for number in range(count)]


def test_each_client_gets_its_own_answer(wired: Wired) -> None:
    clients = connected(wired, 8)
    for number, client in enumerate(clients):
        client.send(b"GET /?%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
    wired.settle()
    for number, client in enumerate(clients):
        assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.received.endswith(b"\r\n\r\n%d" % number)
        client.reset()
    wired.settle()
    wired.assert_idle()


def test_pipelined_requests_are_answered_in_order(wired: Wired) -> None:
    (client,) = connected(wired, 1)
    client.send(b"".join(b"GET /?%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5)))
    wired.settle()
    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in client.received.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies == [b"%d" % number for number in range(5)]
    client.reset()
    wired.settle()
    wired.assert_idle()


def test_a_client_that_goes_away_before_the_turn_ends_takes_nobody_along(wired: Wired) -> None:
    clients = connected(wired, 6)
    for client in clients:
        client.send(GET)
    for client in clients[::2]:
        client.reset()
    wired.settle()
    assert all(client.received.startswith(b"HTTP/1.1 200 OK\r\n") for client in clients[1::2])
    assert wired.service.inflight == 0
    for client in clients[1::2]:
        client.reset()
    wired.settle()
    wired.assert_idle()
    assert wired.cell(Cell.STARTED) == wired.cell(Cell.FINISHED) + wired.cell(Cell.CUT)


def test_when_the_worker_leaves_whoever_has_asked_is_answered(wired: Wired) -> None:
    wired.start()
    clients = connected(wired, 4)
    for client in clients:
        client.send(GET)
    wired.loop.call_soon(wired.service.drain, 1.0)
    wired.settle()
    assert all(client.received.startswith(b"HTTP/1.1 200 OK\r\n") for client in clients)
    for client in clients:
        client.reset()
    wired.settle()
    wired.loop.run_until_complete(wired.service.shutdown())
