"""ASGI 3 (spec 2.5) over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import threading
from typing import Any

import pytest

from supervisor.kernel.board import Cell
from supervisor.serve.limits import Limits
from tests.serve.harness import (
    Harness,
    answer,
    at_rest,
    echo,
    eventually,
    fill,
    http,
    read_all,
    read_until,
    split_answers,
)

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def test_the_scope_has_every_key_with_its_type() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope)
        await answer(send)

    with Harness(http(app)) as server:
        with server.connect() as sock:
            client = sock.getsockname()
            sock.sendall(b"GET /%C3%A9/b%2Fc?q=%20 HTTP/1.1\r\nHost: x\r\nX-Twice: 1\r\nx-twice: 2\r\n\r\n")
            read_until(sock, b"ok")
        scope = seen[0]
        assert isinstance(scope["extensions"].pop("holdfast")["request_id"], str)
        assert scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/é/b/c",
            "raw_path": b"/%C3%A9/b%2Fc",
            "query_string": b"q=%20",
            "root_path": "",
            "headers": [(b"host", b"x"), (b"x-twice", b"1"), (b"x-twice", b"2")],
            "client": client,
            "server": server.address,
            "state": {},
            "extensions": {
                "http.response.trailers": {},
                "http.response.pathsend": {},
                "http.response.early_hint": {},
            },
        }
        assert {key: type(value) for key, value in scope.items()} == {
            **dict.fromkeys(("type", "http_version", "method", "scheme", "path", "root_path"), str),
            **dict.fromkeys(("asgi", "state", "extensions"), dict),
            **dict.fromkeys(("raw_path", "query_string"), bytes),
            **dict.fromkeys(("client", "server"), tuple),
            "headers": list,
        }


@pytest.mark.parametrize(
    ("line", "path", "raw_path", "query"),
    [
        (b"GET /", "/", b"/", b""),
        (b"GET /?", "/", b"/", b""),
        (b"GET /a?b=%20&c=?", "/a", b"/a", b"b=%20&c=?"),
        (b"GET //a//b", "//a//b", b"//a//b", b""),
        (b"GET /%e2%82%ac", "/€", b"/%e2%82%ac", b""),
        (b"GET /%ff%2", "/\ufffd%2", b"/%ff%2", b""),
        (b"GET /a%3Fb%00", "/a?b\0", b"/a%3Fb%00", b""),
        (b"GET http://x/%41?b", "/A", b"/%41", b"b"),
        (b"GET http://x?b", "/", b"/", b"b"),
        (b"OPTIONS *", "*", b"*", b""),
    ],
)
def test_a_target_is_told_decoded_and_as_it_came(line: bytes, path: str, raw_path: bytes, query: bytes) -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope)
        await answer(send)

    with Harness(http(app)) as server:
        server.ask(line + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    (scope,) = seen
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)
    assert scope["method"] == line.split()[0].decode()


def test_an_ipv6_address_is_told_without_brackets() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope)
        await answer(send)

    with Harness(http(app), family=socket.AF_INET6) as server:
        server.ask(GET)
        assert seen[0]["server"] == ("::1", server.address[1])
        assert (seen[0]["client"][0], type(seen[0]["client"][1])) == ("::1", int)


def test_what_an_app_writes_into_its_scope_stays_there() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert "own" not in scope
        for name in ("state", "extensions"):
            assert "own" not in scope[name]
            scope[name]["own"] = 1
        assert (b"own", b"1") not in scope["headers"]
        scope["headers"].append((b"own", b"1"))
        scope["own"] = 1
        seen.append(scope)
        await answer(send)

    with Harness(http(app)) as server:
        assert [status for status, _, _ in split_answers(server.ask(GET * 2))] == [200, 200]
    assert seen[0] is not seen[1]


def test_http_1_0_and_unix_sockets_are_told(tmp_path: Any) -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope)
        await answer(send)

    path = str(tmp_path / "socket")
    with Harness(http(app), family=socket.AF_UNIX, path=path) as server:
        server.ask(b"GET / HTTP/1.0\r\n\r\n")
        server.ask(b"GET / HTTP/1.2\r\nHost: x\r\n\r\n")
    assert [scope["http_version"] for scope in seen] == ["1.0", "1.1"]
    assert seen[0]["server"] == (path, None)
    assert seen[0]["client"] is None


def test_each_request_has_its_own_copy_of_the_lifespan_s_state() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["shared"] = []
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        scope["state"]["shared"].append(1)
        assert "own" not in scope["state"]
        scope["state"]["own"] = 1
        await answer(send, b"%d" % len(scope["state"]["shared"]))

    with Harness(app) as server:
        assert [body for _, _, body in split_answers(server.ask(GET * 3))] == [b"1", b"2", b"3"]


def test_context_variables_do_not_leak_between_requests() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        before = variable.get()
        variable.set(before + 1)
        await answer(send, b"%d" % before)

    with Harness(http(app)) as server:
        assert [body for _, _, body in split_answers(server.ask(GET * 3))] == [b"0"] * 3


def test_a_body_comes_in_pieces_and_then_the_disconnect() -> None:
    messages: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while not messages or messages[-1].get("more_body"):
            messages.append(await receive())
        await answer(send)
        messages.append(await receive())

    with Harness(http(app)) as server, server.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        eventually(lambda: messages)
        sock.sendall(b"def")
        read_until(sock, b"ok")
        eventually(lambda: messages[-1] == {"type": "http.disconnect"})
    assert b"".join(message["body"] for message in messages[:-1]) == b"abcdef"
    assert [message["more_body"] for message in messages[:-1]][-1] is False


def test_an_upload_waits_for_an_app_that_does_not_take_it() -> None:
    release = threading.Event()
    largest = 0

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        nonlocal largest
        await asyncio.to_thread(release.wait, 10)
        size, more = 0, True
        while more:
            message = await receive()
            largest = max(largest, len(message["body"]))
            size += len(message["body"])
            more = message["more_body"]
        await answer(send, b"%d" % size)

    with Harness(http(app)) as server, server.connect(timeout=0.5) as sock:
        total = 64 << 20
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % total)
        sent = fill(sock, total)
        assert sent < total
        release.set()
        sock.settimeout(10)
        assert fill(sock, total - sent) == total - sent
        assert read_until(sock, b"%d" % total)
    assert largest < 1 << 20


def test_send_waits_for_a_client_that_takes_nothing() -> None:
    sent = 0

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(96):
            await send({"type": "http.response.body", "body": bytes(1 << 18), "more_body": True})
            sent += 1 << 18
        await send({"type": "http.response.body"})

    with Harness(http(app)) as server, server.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.sendall(GET)
        eventually(lambda: sent)
        assert at_rest(lambda: sent) < 12 << 20
        sock.shutdown(socket.SHUT_WR)
        ((status, _, body),) = split_answers(read_all(sock))
        assert (status, len(body)) == (200, 24 << 20)


def test_the_disconnect_is_told_and_send_raises_after_it() -> None:
    told: list[object] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        told.append((await receive())["type"])
        try:
            for _ in range(1000):
                await answer(send)
        except OSError as error:
            told.append(error)
            raise

    with Harness(http(app)) as server:
        with server.connect() as sock:
            sock.sendall(GET)
            eventually(lambda: server.service.inflight)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        eventually(lambda: len(told) == 2)
        assert told[0] == "http.disconnect"
        assert isinstance(told[1], OSError)
        eventually(lambda: server.service.inflight == 0)
        assert server.cell(Cell.FINISHED) == 1


def test_a_disconnect_in_the_body_is_told() -> None:
    told: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while not told or told[-1] != "http.disconnect":
            told.append((await receive())["type"])

    with Harness(http(app)) as server:
        with server.connect() as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
            eventually(lambda: told)
        eventually(lambda: told == ["http.request", "http.disconnect"])


def test_an_app_that_waits_for_its_client_is_told_of_a_half_closed_one_in_the_end() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await receive()
                raise AssertionError("it may still be there")
        assert (await receive())["type"] == "http.disconnect"
        await answer(send, b"still here")

    with Harness(http(app), limits=Limits(half_closed=0.1)) as server:
        assert b"still here" in server.ask(GET)


def test_two_may_wait_for_the_disconnect_and_one_may_be_cancelled() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        one = asyncio.ensure_future(receive())
        two = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        one.cancel()
        await asyncio.sleep(0)
        assert not two.done()
        await answer(send)
        assert (await two)["type"] == "http.disconnect"

    with Harness(http(app)) as server, server.connect() as sock:
        sock.sendall(GET)
        assert split_answers(read_until(sock, b"ok"))[0][0] == 200
        eventually(lambda: not server.service.bridge.is_running())


def test_a_body_in_tiny_pieces_is_paused_before_its_pieces_outweigh_it() -> None:
    go = threading.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await asyncio.to_thread(go.wait, 10)
        await answer(send, b"%d" % len((await receive())["body"]))

    with Harness(http(app), limits=Limits(read_ahead=6500)) as server, server.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\n")
        eventually(lambda: server.service.inflight)
        (connection,) = server.service.roster
        for _ in range(101):
            assert connection.transport.is_reading()
            server.call(lambda: connection.data_received(b"x"))
        assert not connection.transport.is_reading()
        go.set()
        assert read_until(sock, b"101").endswith(b"101")


def test_an_echo_streams_both_ways_at_once() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    total = 8 << 20
    got: list[bytes] = []
    with Harness(http(app)) as server, server.connect() as sock:
        reader = threading.Thread(target=lambda: got.append(read_all(sock)))
        reader.start()
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total >> 16):
            sock.sendall(bytes(1 << 16))
        reader.join(20)
    assert len(split_answers(got[0])[0][2]) == total


def test_a_body_that_stops_is_given_up_and_told() -> None:
    told: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while not told or told[-1] != "http.disconnect":
            told.append((await receive())["type"])
        with pytest.raises(OSError, match="gone"):
            await answer(send)

    with Harness(http(app), limits=Limits(body_idle=0.1)) as server:
        data = server.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc", end=False)
        assert data.startswith(b"HTTP/1.1 408 ")
        eventually(lambda: told == ["http.request", "http.disconnect"])


def test_many_clients_at_once_are_all_counted() -> None:
    with Harness(echo) as server:

        def client() -> None:
            with server.connect() as sock:
                for _ in range(50):
                    sock.sendall(GET)
                    read_until(sock, b"GET / ")

        threads = [threading.Thread(target=client) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: server.service.connections == 0)
        assert server.cell(Cell.STARTED) == server.cell(Cell.FINISHED) == 800
        assert server.cell(Cell.ACCEPTED) == 16
