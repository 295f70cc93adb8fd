"""Connections whose first request is there when they are taken: who gets a transport of the loop's, and when."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from supervisor.kernel.board import Cell
from supervisor.serve.limits import Limits
from supervisor.serve.newcomers import FIRST, SOON
from tests.serve.answers import Answered, read_answers
from tests.serve.harness import Harness, answer, echo, eventually, http, read_all, read_until
from tests.serve.stepped import AcceptedSocket, Client, Wired
from tests.serve.websocket.client import HANDSHAKE

LAST = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
LEGACY = b"GET /a HTTP/1.0\r\n\r\n"
GET = b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = bytes(range(256)) * 40


@http
async def long(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    await answer(send, BODY)


class Slow:
    """An app that answers when it is told to, or when its client has gone."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.news: list[str] = []

    async def asgi(self, _scope: dict[str, Any], receive: Any, send: Any) -> None:
        told = asyncio.ensure_future(self._wait_for_end(receive))
        await self.may.wait()
        told.cancel()
        await answer(send)

    async def _wait_for_end(self, receive: Any) -> None:
        await receive()
        self.news.append((await receive())["type"])
        self.may.set()


def is_watched(client: Client) -> bool:
    """Whether there is a transport that reads what the client sends."""
    return client.transport is not None


def only_answer(client: Client) -> Answered:
    (one,), rest = read_answers(bytes(client.received), ["GET"], ended=client.ended or client.closed)
    assert rest == b""
    assert one.whole
    return one


@pytest.mark.parametrize("first", [LAST, LEGACY])
def test_a_last_request_that_is_answered_at_once_needs_no_transport(first: bytes) -> None:
    with Wired(echo) as wired:
        client = wired.connect(first=first)
        assert wired.service.connections == 1
        wired.settle()
        assert not is_watched(client)
        assert client.closed
        assert only_answer(client).body == b"GET /a "
        wired.assert_idle()
        assert wired.cell(Cell.ACCEPTED) == wired.cell(Cell.FINISHED) == 1


@pytest.mark.parametrize("first", [b"", GET, GET + LAST, GET[:9], LAST[:-1]])
def test_who_may_send_more_gets_one_at_once(first: bytes) -> None:
    with Wired(echo) as wired:
        client = wired.connect(first=first)
        wired.settle()
        assert is_watched(client)
        client.reset()
        wired.settle()
        wired.assert_idle()


def test_a_head_longer_than_what_is_read_at_first_is_read_on() -> None:
    with Wired(echo) as wired:
        field = b"X: " + b"x" * 5000 + b"\r\n"
        client = wired.connect(first=LAST[:-2] + field + field.replace(b"X", b"Y") + b"\r\n")
        assert FIRST < 10_000
        wired.settle()
        assert only_answer(client).body == b"GET /a "
        client.end()
        wired.settle()
        wired.assert_idle()


def test_the_next_request_on_a_connection_that_stays_is_answered() -> None:
    with Wired(echo) as wired:
        client = wired.connect(first=GET)
        wired.settle()
        client.send(LAST)
        wired.settle()
        answers, _ = read_answers(bytes(client.received), ["GET", "GET"], ended=client.closed)
        assert [each.body for each in answers] == [b"GET /b ", b"GET /a "]
        wired.assert_idle()


def test_who_waits_longer_is_watched_and_still_answered() -> None:
    slow = Slow()
    with Wired(slow.asgi) as wired:
        client = wired.connect(first=LAST)
        wired.settle()
        assert not is_watched(client)
        for _ in range(2):
            wired.advance(SOON)
        assert is_watched(client)
        slow.may.set()
        wired.settle()
        assert only_answer(client).body == b"ok"
        wired.assert_idle()


def test_the_app_learns_of_the_end_of_who_waits_longer() -> None:
    slow = Slow()
    with Wired(slow.asgi) as wired:
        client = wired.connect(first=LAST)
        wired.settle()
        for _ in range(2):
            wired.advance(SOON)
        client.reset()
        wired.settle()
        assert slow.news == ["http.disconnect"]
        wired.assert_idle()


def test_newcomers_at_different_times_are_each_watched_in_time() -> None:
    slow = Slow()
    with Wired(slow.asgi) as wired:
        early = wired.connect(first=LAST)
        wired.settle()
        wired.advance(SOON)
        late = wired.connect(first=LAST)
        wired.settle()
        wired.advance(SOON)
        assert is_watched(early)
        assert not is_watched(late)
        wired.advance(SOON)
        assert is_watched(late)
        slow.may.set()
        wired.settle()
        wired.assert_idle()


@pytest.mark.parametrize("room", [0, 1, 1000])
def test_what_the_client_has_no_room_for_follows_in_order(room: int) -> None:
    with Wired(long) as wired:
        client = wired.connect(room=room, first=LAST)
        wired.settle()
        assert not client.closed
        assert len(client.received) == room
        for _ in range(200):
            client.take(100)
            wired.settle()
        assert only_answer(client).body == BODY
        wired.assert_idle()


def test_a_client_that_has_gone_before_its_answer_is_forgotten() -> None:
    with Wired(echo) as wired:
        client = wired.connect(first=LAST)
        client.reset()
        wired.settle()
        assert client.closed
        assert wired.cell(Cell.FINISHED) == 1
        wired.assert_idle()


@pytest.mark.parametrize("how", ["has_ended", "has_gone"])
def test_a_client_that_has_gone_before_it_was_taken_is_forgotten(how: str) -> None:
    with Wired(echo) as wired:
        client = Client(wired, 100, ("127.0.0.1", 50000))
        setattr(client, how, True)
        wired.service.accepted(AcceptedSocket(client))  # type: ignore[arg-type]
        wired.settle()
        assert client.closed
        assert wired.cell(Cell.STARTED) == 0
        wired.assert_idle()


@pytest.mark.parametrize("first", [LAST, GET, GET[:5]])
def test_a_cut_ends_who_has_just_come(first: bytes) -> None:
    with Wired(Slow().asgi) as wired:
        client = wired.connect(room=0, first=first)
        wired.service.cut()
        wired.settle()
        assert client.closed
        assert not client.received
        wired.assert_idle()


def test_a_refused_client_may_say_what_it_has_to_say_before_the_end() -> None:
    with Wired(echo) as wired:
        client = wired.connect(first=b"no request\r\n\r\n")
        wired.settle()
        assert only_answer(client).status == 400
        assert client.ended
        assert not client.closed
        client.send(b"more")
        client.end()
        wired.settle()
        wired.assert_idle()


def test_a_body_that_the_app_does_not_take_is_left_to_the_client() -> None:
    slow = Slow()
    with Wired(slow.asgi) as wired:
        wired.service.set_limits(Limits(read_ahead=100))
        head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n"
        client = wired.connect(first=head + bytes(1000))
        assert is_watched(client)
        client.send(bytes(1000))
        wired.settle()
        client.send(bytes(1000))
        wired.settle()
        wired.service.cut()
        wired.settle()
        wired.assert_idle()


def test_who_gets_no_transport_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no more of them")

    with Wired(echo) as wired:
        monkeypatch.setattr(wired.loop, "connect_accepted_socket", refuse)
        client = wired.connect(first=GET)
        wired.settle()
        assert client.closed
        wired.assert_idle()


def hand_in(server: Harness, first: bytes) -> socket.socket:
    """A client whose `first` bytes were there when its connection was taken."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    ours.sendall(first)
    server.call(lambda: server.service.accepted(theirs))
    return ours


def test_a_websocket_that_is_asked_for_at_once() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"] * 2})
        await send({"type": "websocket.close"})

    with Harness(app) as server, hand_in(server, HANDSHAKE) as client:
        read_until(client, b"\r\n\r\n")
        client.sendall(b"\x81\x82\0\0\0\0ab")
        assert read_until(client, b"abab").startswith(b"\x81\x04abab")


def test_a_long_file_as_the_answer_to_a_last_request(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BODY * 500)

    @http
    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": str(path)})

    with Harness(app) as server, hand_in(server, LEGACY) as client:
        data = read_all(client)
        assert data.partition(b"\r\n\r\n")[2] == BODY * 500
        eventually(lambda: server.service.connections == 0)


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_long_answer_to_a_slow_client(interface: Any, threads: int) -> None:
    size = 5_000_000

    async def asgi(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(50):
            await send({"type": "http.response.body", "body": bytes(size // 50), "more_body": True})
        await send({"type": "http.response.body", "body": b"."})

    def wsgi(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [bytes(size // 50) for _ in range(50)] + [b"."]

    app = http(asgi) if interface == "asgi" else wsgi
    with Harness(app, interface, threads=threads) as server, hand_in(server, LAST) as client:
        eventually(lambda: server.cell(Cell.STARTED) == 1)
        data = read_all(client)
        assert data.count(0) == size
        eventually(lambda: server.service.connections == 0)


@pytest.mark.parametrize("first", [b"", GET, LAST])
def test_a_descriptor_is_closed_once(first: bytes) -> None:
    closed: list[int] = []

    class Accepted(socket.SocketType):
        """As a `Door` makes them, which uvloop would close, too."""

        def close(self) -> None:
            closed.append(self.fileno())
            super().close()

    with Harness(echo) as server:
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall(first)
            fd = theirs.detach()
            taken = Accepted(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
            server.call(lambda: server.service.accepted(taken))  # type: ignore[arg-type]
            if first == GET:
                read_until(ours, b"GET /b ")
            ours.shutdown(socket.SHUT_WR)
            read_all(ours)
        eventually(lambda: server.service.connections == 0)
        assert closed == ([fd] if first == LAST else [])
        assert taken.fileno() == -1
