"""Which requests the flight recorder has while the service runs them."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from supervisor.observe.flight import Flight, read
from tests.serve.harness import Harness, answer, eventually, http, read_until

WEBSOCKET = (
    b"GET /socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def seen(server: Harness) -> Flight:
    return read(bytes(server.row.obj), time.monotonic())


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def test_a_request_is_the_current_one_while_its_app_has_the_loop_and_gone_afterwards() -> None:
    flights: list[Flight] = []

    @http
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        flights.append(seen(server))
        await answer(send)
        flights.append(seen(server))

    with Harness(app) as server, server.connect() as client:
        client.sendall(get("/now?secret=1"))
        read_until(client, b"ok")
        eventually(lambda: len(flights) == 2)
        assert server.call(lambda: seen(server)) == Flight()
    for flight in flights:
        assert flight.is_certain
        assert [str(each) for each in flight.requests] == ["GET /now from 127.0.0.1"]


def test_of_requests_that_come_in_one_turn_the_one_being_run_is_named() -> None:
    named: dict[str, str] = {}

    @http
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        flight = seen(server)
        named[scope["path"]] = flight.running.path if flight.running is not None and flight.is_certain else ""
        await answer(send)

    with Harness(app) as server:
        clients = [server.connect() for _ in range(8)]
        sockets = [client.__enter__() for client in clients]
        gate = threading.Event()
        server.loop.call_soon_threadsafe(gate.wait, 10)  # so that all lie there when the loop goes on
        for number, sock in enumerate(sockets):
            sock.sendall(get(f"/{number}"))
        gate.set()
        for sock in sockets:
            read_until(sock, b"ok")
        for client in clients:
            client.__exit__(None, None, None)
    assert named == {f"/{number}": f"/{number}" for number in range(8)}


def test_a_request_that_waits_has_a_seat_until_it_has_ended() -> None:
    release = asyncio.Event()

    @http
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        assert scope["extensions"]["holdfast"]["request_id"] == "my-id"
        await release.wait()
        await answer(send)

    with Harness(app, forwarded_allow_ips=("127.0.0.1",)) as server, server.connect() as client:
        client.sendall(get("/waits", "X-Request-ID: my-id", "X-Forwarded-For: 192.0.2.9"))
        eventually(lambda: seen(server).waiting)
        (waiting,) = seen(server).waiting
        assert (waiting.method, waiting.path, waiting.client, waiting.request_id) == (
            "GET",
            "/waits",
            "192.0.2.9",
            "my-id",
        )
        server.call(release.set)
        read_until(client, b"ok")
        eventually(lambda: seen(server) == Flight())


def test_many_that_wait_and_many_that_do_not_leave_nothing_behind() -> None:
    @http
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] == "/waits":
            await asyncio.sleep(0.001)
        elif scope["path"] == "/fails":
            raise RuntimeError("on purpose")
        await answer(send)

    with Harness(app) as server:
        for number in range(150):
            with server.connect() as client:
                client.sendall(get(("/waits", "/fails", "/quick")[number % 3]))
                read_until(client, b"HTTP/1.1 ")
        eventually(lambda: seen(server) == Flight())
        assert len(server.service.recorder._free) == 64


def test_an_id_that_the_app_asks_for_is_on_record_for_its_request_alone() -> None:
    flights: list[Flight] = []
    names: list[str] = []

    @http
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] == "/asks":
            names.append(scope["extensions"]["holdfast"]["request_id"])
        flights.append(seen(server))
        await answer(send)

    with Harness(app) as server, server.connect() as client:
        for path in ("/asks", "/does-not", "/asks"):
            client.sendall(get(path))
            read_until(client, b"ok")
    assert [flight.requests[0].request_id for flight in flights] == [names[0], "", names[1]]


@pytest.mark.parametrize("threads", [1, 4])
def test_an_id_that_a_wsgi_app_asks_for_is_on_record(threads: int) -> None:
    found: list[tuple[str, str]] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        name = environ["holdfast.trace"]["request_id"] if environ["PATH_INFO"] == "/asks" else ""
        found.append((name, seen(server).requests[0].request_id))
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with Harness(app, "wsgi", threads=threads) as server, server.connect() as client:
        for path in ("/asks", "/does-not"):
            client.sendall(get(path))
            read_until(client, b"ok")
    assert found[0][0]
    assert [name for name, _ in found] == [recorded for _, recorded in found]


def test_a_long_head_is_on_record_with_its_first_line() -> None:
    flights: list[Flight] = []

    @http
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        flights.append(seen(server))
        await answer(send)

    with Harness(app) as server, server.connect() as client:
        client.sendall(get("/long", "X-Long: " + "x" * 6000))
        read_until(client, b"ok")
    assert [str(each) for each in flights[0].requests] == ["GET /long from 127.0.0.1"]


def test_an_open_websocket_is_on_record_until_its_app_has_ended() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"  # no lifespan
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    with Harness(app) as server:
        with server.connect() as client:
            client.sendall(WEBSOCKET)
            assert client.recv(100).startswith(b"HTTP/1.1 101")
            assert [str(each) for each in seen(server).waiting] == ["GET /socket from 127.0.0.1"]
        eventually(lambda: seen(server) == Flight())


@pytest.mark.parametrize("threads", [1, 4])
def test_a_wsgi_request_is_on_record_while_its_code_runs(threads: int) -> None:
    flights: list[tuple[int, Flight]] = []

    def app(_environ: Any, start_response: Any) -> list[bytes]:
        flights.append((threading.get_ident(), seen(server)))
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with Harness(app, "wsgi", threads=threads) as server, server.connect() as client:
        client.sendall(get("/report"))
        read_until(client, b"ok")
        eventually(lambda: seen(server) == Flight())
    ((ident, flight),) = flights
    assert [str(each) for each in flight.requests] == ["GET /report from 127.0.0.1"]
    if threads == 1:
        assert flight.is_certain
    else:
        assert flight.in_thread(ident) == flight.waiting[0]
