"""Open WebSockets over real connections: messages, their limits, pings, back-pressure, and every kind of end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from typing import Any

import pytest

from supervisor.kernel.board import Cell
from supervisor.serve.limits import Limits
from tests.serve.harness import Harness, eventually, read_all
from tests.serve.websocket.client import (
    BINARY,
    CLOSE,
    CONT,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    Handler,
    Reader,
    close,
    echo,
    frame,
    opened,
    websocket,
)

Told = list[dict[str, Any]]


def teller(told: Told) -> Handler:
    """An app that accepts, and takes down all it receives up to the disconnect."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while not told or told[-1]["type"] != "websocket.disconnect":
            told.append(await receive())

    return websocket(app)


def doer(*messages: dict[str, Any]) -> Handler:
    """An app that accepts, sends these, and waits for the end."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        for message in ({"type": "websocket.accept"}, *messages):
            await send(message)
        while (await receive())["type"] != "websocket.disconnect":
            pass

    return websocket(app)


def disconnect(code: int, reason: str = "") -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def is_idle(server: Harness) -> bool:
    """Whether nothing is left of any client."""
    return not server.call(server.service.bridge.is_running) and server.cell(Cell.CONNECTIONS) == 0


def test_messages_come_as_text_or_bytes_and_in_order() -> None:
    told: Told = []
    with Harness(teller(told)) as server, opened(server) as client:
        client.sock.sendall(
            frame(TEXT, "é".encode())
            + frame(BINARY, b"\xff", fin=False)
            + frame(CONT, b"\0")
            + frame(TEXT)
            + close(4001, b"x")
        )
        assert client.closed() == (4001, "x")
        assert client.ended()
        eventually(lambda: is_idle(server))
    assert told == [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "é"},
        {"type": "websocket.receive", "bytes": b"\xff\0"},
        {"type": "websocket.receive", "text": ""},
        disconnect(4001, "x"),
    ]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"x", mask=False), 1002),
        (frame(CONT, b"x"), 1002),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(BINARY, b"x" * 2000), 1009),
        (frame(BINARY, b"x" * 600, fin=False) + frame(CONT, b"x" * 600), 1009),
    ],
)
def test_garbage_gets_its_code_and_no_line_in_the_log(
    sent: bytes, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    told: Told = []
    with Harness(teller(told), ws_max_size=1000) as server, opened(server) as client:
        client.sock.sendall(sent)
        # What was on its way before the client read our close frame must not turn into a reset that destroys it.
        with contextlib.suppress(BrokenPipeError):
            client.sock.sendall(frame(BINARY, b"y" * 500) * 100)
        assert client.closed()[0] == code
        assert client.ended()
        client.sock.close()
        eventually(lambda: is_idle(server))
    assert [message.get("code") for message in told] == [None, code]
    assert capfd.readouterr().err == ""


def test_a_client_that_breaks_the_protocol_and_stays_is_dropped() -> None:
    limits = Limits(closing=0.5)
    with Harness(websocket(echo), limits=limits) as server, opened(server) as client:
        client.sock.sendall(frame(3))
        client.closed()
        eventually(lambda: is_idle(server))


def test_pings_are_answered() -> None:
    with Harness(websocket(echo)) as server, opened(server) as client:
        client.sock.sendall(frame(PING, b"now"))
        assert client.frame() == (PONG, b"now")


def test_a_client_that_goes_without_a_word_is_1006() -> None:
    told: Told = []
    with Harness(teller(told)) as server:
        with opened(server) as client:
            client.sock.sendall(frame(TEXT, b"last words"))
        eventually(lambda: is_idle(server))
        assert server.cell(Cell.CUT) == 0
    assert told[-2:] == [{"type": "websocket.receive", "text": "last words"}, disconnect(1006)]


def test_a_close_without_a_code_is_1005() -> None:
    told: Told = []
    with Harness(teller(told)) as server, opened(server) as client:
        client.sock.sendall(close(None))
        assert client.closed() == (None, "")
        eventually(lambda: told[-1] == disconnect(1005))


def test_sending_to_a_client_that_has_gone_raises_the_spec_s_error() -> None:
    raised: list[BaseException] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        gone = await receive()
        assert gone == await receive() == disconnect(1006)
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except OSError as error:
            raised.append(error)
        await send({"type": "websocket.close"})  # asks for what is

    with Harness(websocket(app)) as server:
        with opened(server):
            pass
        eventually(lambda: is_idle(server))
    assert len(raised) == 1


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ({}, 1000, ""),
        ({"code": None, "reason": None}, 1000, ""),
        ({"code": 1001, "reason": "bye"}, 1001, "bye"),
        ({"code": 1003, "reason": None}, 1003, ""),
        ({"code": 4999, "reason": "é" * 100}, 4999, "é" * 61),
    ],
)
def test_an_app_closes_with_its_code(message: dict[str, Any], code: int, reason: str) -> None:
    told: Told = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"} | message)
        with pytest.raises(RuntimeError):
            await send({"type": "websocket.send", "text": "more"})
        with pytest.raises(RuntimeError):
            await send({"type": "websocket.close"})
        told.append(await receive())

    with Harness(websocket(app)) as server, opened(server) as client:
        assert client.closed() == (code, reason)
        client.sock.sendall(frame(TEXT, b"crossing") + close(code))
        assert client.ended()
        eventually(lambda: is_idle(server))
    assert told[0]["code"] == code


def test_a_client_that_does_not_answer_our_close_is_dropped_in_time() -> None:
    with Harness(doer({"type": "websocket.close"}), limits=Limits(closing=0.5)) as server, opened(server) as client:
        assert client.closed() == (1000, "")
        assert client.ended()
        eventually(lambda: is_idle(server))


def test_an_app_that_returns_closes_normally_and_one_that_raises_with_1011(capfd: pytest.CaptureFixture[str]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        if (await receive())["text"] == "raise":
            raise ValueError("what an app says")

    with Harness(websocket(app)) as server:
        for word, code in ((b"return", 1000), (b"raise", 1011)):
            with opened(server) as client:
                client.sock.sendall(frame(TEXT, word))
                assert client.closed() == (code, "")
                client.sock.sendall(close(code))
                assert client.ended()
    said = capfd.readouterr().err
    assert said.count("holdfast: ") == 1
    assert said.startswith("holdfast: WebSocket /chat?room=1: the app raised an exception\nTraceback")
    assert "what an app says" in said


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.accept"},
        {"type": "websocket.http.response.start", "status": 200},
        {"type": "http.response.start", "status": 200},
        {"type": "websocket.close", "code": 1006},
    ],
)
def test_an_open_websocket_takes_no_other_messages(message: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    with Harness(doer(message)) as server, opened(server) as client:
        assert client.closed() == (1011, "")
    assert capfd.readouterr().err.count("holdfast: ") == 1


def test_the_framework_s_exception_for_a_client_that_went_is_no_failure(capfd: pytest.CaptureFixture[str]) -> None:
    class WebSocketDisconnect(Exception):  # noqa: N818 - Starlette's name
        pass

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        raise WebSocketDisconnect

    with Harness(websocket(app)) as server:
        with opened(server):
            pass
        eventually(lambda: is_idle(server))
    assert capfd.readouterr().err == ""


# Back-pressure.


def flooded(sock: socket.socket, piece: bytes) -> int:
    """Send `piece` again and again until the server takes no more; how many bytes that were."""
    timeout = sock.gettimeout()
    sock.settimeout(0.3)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 64 << 20:
            sent += sock.send(piece[sent % len(piece) :])
    sock.settimeout(timeout)
    assert sent < 64 << 20
    return sent


def test_a_slow_app_stops_its_client() -> None:
    go = asyncio.Event()
    taken: list[int] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        await go.wait()
        while (message := await receive())["type"] == "websocket.receive":
            taken.append(len(message["bytes"]))

    with Harness(websocket(app)) as server, opened(server) as client:
        piece = frame(BINARY, b"x" * 1000)
        sent = flooded(client.sock, piece)
        server.call(go.set)
        client.sock.sendall(piece[sent % len(piece) :] + close())
        client.closed()
        eventually(lambda: taken == [1000] * (sent // len(piece) + 1))


def test_many_tiny_messages_wait_unparsed() -> None:
    go = asyncio.Event()
    count = 0

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        nonlocal count
        await send({"type": "websocket.accept"})
        await receive()
        await go.wait()
        while (await receive())["type"] == "websocket.receive":
            count += 1

    with Harness(websocket(app)) as server, opened(server) as client:
        client.sock.sendall(frame(TEXT) * 40_000 + close())
        (sock,) = server.call(lambda: list(server.service.roster))
        inbox = sock._inbox  # type: ignore[union-attr]
        eventually(lambda: len(inbox._queue) > 1)
        assert server.call(lambda: len(inbox._queue)) < 4000
        server.call(go.set)
        assert client.closed() == (1000, "")
    assert count == 40_000


def test_a_slow_client_stops_the_app() -> None:
    sent = 0

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "websocket.accept"})
        for _ in range(1000):
            await send({"type": "websocket.send", "bytes": b"x" * 65536})
            sent += 1

    with Harness(websocket(app)) as server, opened(server) as client:
        eventually(lambda: sent)
        held = -1
        while held != sent:  # until it stands still
            held = sent
            client.sock.sendall(frame(PING))
            server.call(lambda: None)
        assert sent < 900
        count = 0
        while (got := client.frame())[0] != CLOSE:
            count += got[0] == BINARY
        assert count == 1000


def test_a_client_that_pings_and_never_reads_fills_no_memory() -> None:
    with Harness(websocket(echo)) as server, opened(server) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        flooded(client.sock, frame(PING, b"x" * 125) * 100)
        (sock,) = server.call(lambda: list(server.service.roster))
        assert server.call(sock.transport.get_write_buffer_size) < 1 << 20


def test_a_waiting_send_ends_when_the_client_goes() -> None:
    raised: list[BaseException] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": b"x" * 65536})
        except OSError as error:
            raised.append(error)

    with Harness(websocket(app)) as server:
        with opened(server):
            pass
        eventually(lambda: is_idle(server))
    assert len(raised) == 1


def test_a_receive_that_was_given_up_loses_nothing() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        for _ in range(3):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(receive(), 0.001)
        await send({"type": "websocket.send", "text": "ready"})
        both = await asyncio.gather(receive(), receive())
        await send({"type": "websocket.send", "text": ",".join(sorted(message["text"] for message in both))})

    with Harness(websocket(app)) as server, opened(server) as client:
        assert client.frame() == (TEXT, b"ready")
        client.sock.sendall(frame(TEXT, b"a") + frame(TEXT, b"b"))
        assert client.frame() == (TEXT, b"a,b")


# Keep-alive.


def test_a_client_is_pinged_and_lives_by_its_pongs_alone() -> None:
    with Harness(websocket(echo), ws_ping_interval=0.1, ws_ping_timeout=0.1) as server, opened(server) as client:
        for _ in range(3):
            assert client.frame() == (PING, b"")
            client.sock.sendall(frame(PONG))
        assert client.frame() == (PING, b"")
        client.sock.sendall(frame(PONG) + frame(TEXT, b"still here"))
        assert client.frame() == (TEXT, b"still here")


def test_a_client_that_answers_no_ping_is_given_up() -> None:
    told: Told = []
    with (
        Harness(teller(told), ws_ping_interval=0.1, ws_ping_timeout=0.1, limits=Limits(closing=0.5)) as server,
        opened(server) as client,
    ):
        assert client.frame() == (PING, b"")
        assert client.closed() == (1011, "keepalive ping timeout")
        assert client.ended()
        eventually(lambda: is_idle(server))
    assert told[-1] == disconnect(1006, "keepalive ping timeout")


def test_a_client_whose_pong_waits_behind_a_slow_app_lives() -> None:
    go = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await go.wait()
        await echo(scope, receive, _ignoring_accept(send))

    with Harness(websocket(app), ws_ping_interval=0.1, ws_ping_timeout=0.1) as server, opened(server) as client:
        client.sock.sendall(frame(TEXT, b"x") * 100_000)
        assert client.frame() == (PING, b"")
        tick = server.service.tick
        eventually(lambda: server.service.tick > tick + 4)
        server.call(go.set)
        assert client.frame() == (TEXT, b"x")


def _ignoring_accept(send: Any) -> Any:
    async def sender(message: dict[str, Any]) -> None:
        if message["type"] != "websocket.accept":
            await send(message)

    return sender


def test_no_pings_are_sent_when_they_are_off() -> None:
    with Harness(websocket(echo), ws_ping_interval=0.0) as server, opened(server) as client:
        tick = server.service.tick
        eventually(lambda: server.service.tick > tick + 3)
        client.sock.sendall(frame(TEXT, b"quiet"))
        assert client.frame() == (TEXT, b"quiet")


# Leaving.


def test_a_leaving_worker_sends_its_clients_away_with_1012() -> None:
    told: Told = []
    with Harness(teller(told)) as server, opened(server) as client:
        server.call(lambda: server.service.drain(None))
        assert client.closed() == (1012, "service restart")
        client.sock.sendall(frame(TEXT, b"crossing") + close(1012))
        assert client.ended()
        eventually(lambda: server.empties == 1)
        assert server.cell(Cell.CUT) == 0
    assert told[-1] == disconnect(1012, "service restart")


def test_clients_are_sent_away_spread_over_half_the_drain_timeout() -> None:
    with Harness(websocket(echo), drain_timeout=2.0) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(opened(server)) for _ in range(150)]
        begun = server.loop.time()
        server.call(lambda: server.service.drain(None))
        for client in clients:
            assert client.closed()[0] == 1012
            client.sock.sendall(close(1012))
        eventually(lambda: server.empties == 1)
        assert 0.5 < server.loop.time() - begun < 2.0


def test_a_stop_sends_them_away_within_its_linger() -> None:
    with Harness(websocket(echo)) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(opened(server)) for _ in range(20)]
        server.call(lambda: server.service.drain(0.05))
        for client in clients:
            assert client.closed()[0] == 1012
            client.sock.sendall(close(1012))
        eventually(lambda: server.empties == 1, timeout=1.0)


def test_a_handshake_on_a_leaving_worker_is_answered_and_then_sent_away() -> None:
    with Harness(websocket(echo)) as server, server.connect() as first, opened(server) as other:
        first.sendall(HANDSHAKE[:20])
        eventually(lambda: server.cell(Cell.ACCEPTED) == 2)
        server.call(lambda: server.service.drain(None))
        assert other.closed()[0] == 1012
        first.sendall(HANDSHAKE[20:])
        data = b""
        while b"\r\n\r\n" not in data:
            data += first.recv(1024)
        assert data.startswith(b"HTTP/1.1 101 ")
        late = Reader(first, data.partition(b"\r\n\r\n")[2])
        assert late.closed()[0] == 1012


def test_neither_client_nor_app_keeps_a_leaving_worker_beyond_the_cut() -> None:
    ended: list[BaseException | None] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            ended.append(error)
            raise

    with Harness(websocket(app)) as server, opened(server) as client:
        server.call(lambda: server.service.drain(None))
        assert client.closed()[0] == 1012
        assert server.empties == 0
        assert server.call(server.service.cut) == 0
        eventually(lambda: server.empties == 1)
        with contextlib.suppress(ConnectionResetError):
            assert read_all(client.sock) == b""
    assert len(ended) == 1


def test_a_cut_without_a_farewell_is_told_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await asyncio.Event().wait()

    with Harness(websocket(app)) as server, opened(server) as client:
        server.call(server.service.cut)
        eventually(lambda: is_idle(server))
        with contextlib.suppress(ConnectionResetError):
            assert client.ended()
    assert re.fullmatch(r"holdfast: WebSocket /chat\?room=1: its app code cut after 0\.\d s\n", capfd.readouterr().err)


def test_a_reset_is_an_end_like_any_other(capfd: pytest.CaptureFixture[str]) -> None:
    told: Told = []
    with Harness(teller(told)) as server:
        with opened(server) as client:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(lambda: is_idle(server))
    assert told[-1] == disconnect(1006)
    assert capfd.readouterr().err == ""
