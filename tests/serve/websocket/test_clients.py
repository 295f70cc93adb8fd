"""WebSocket as people use it: the websockets client against Starlette and FastAPI, compressed and large, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from supervisor.serve.limits import Limits
from tests.serve.edge.test_tls import Papers, dialled, papers, served
from tests.serve.harness import Harness, eventually, read_all
from tests.serve.websocket.client import HANDSHAKE, frame

__all__ = ["papers"]  # a fixture

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fastapi import Depends, FastAPI, WebSocketException


class Echo(WebSocketEndpoint):
    encoding = "text"

    async def on_connect(self, websocket: WebSocket) -> None:
        offered = websocket.scope["subprotocols"]
        await websocket.accept(subprotocol=offered[-1] if offered else None, headers=[(b"x-app", b"starlette")])

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        await websocket.send_text(data)


async def rejecting(websocket: WebSocket) -> None:
    await websocket.send_denial_response(PlainTextResponse("not today", status_code=409, headers={"x-why": "busy"}))


async def careless(websocket: WebSocket) -> None:
    """Lets the exception of the client's end pass, as the examples of the frameworks do."""
    await websocket.accept()
    while True:
        await websocket.send_bytes(await websocket.receive_bytes())


@contextlib.asynccontextmanager
async def lifespan(_app: object) -> AsyncIterator[dict[str, Any]]:
    yield {"greeting": "hello"}


fast = FastAPI(lifespan=lifespan)


async def token(websocket: WebSocket, token: str = "") -> str:
    if token != "right":
        raise WebSocketException(code=1008, reason="wrong token")
    return token


@fast.websocket("/rooms/{room}")
async def room(websocket: WebSocket, room: int, token: str = Depends(token)) -> None:
    await websocket.accept()
    await websocket.send_json({"room": room, "token": token, "greeting": websocket.state.greeting})
    with contextlib.suppress(WebSocketDisconnect):
        async for text in websocket.iter_text():
            await websocket.send_text(text.upper())


@contextlib.contextmanager
def client_of(server: Harness, path: str, **options: Any) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{server.address[1]}{path}", **options) as client:
        yield client


STARLETTE = Starlette(
    routes=[WebSocketRoute("/echo", Echo), WebSocketRoute("/reject", rejecting), WebSocketRoute("/careless", careless)]
)


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_of_all_sizes_come_back(compression: str | None) -> None:
    with Harness(STARLETTE) as server, client_of(server, "/echo", compression=compression) as client:
        for size in (0, 1, 125, 126, 65535, 65536, 500_000):
            client.send("ä" * size)
            assert client.recv() == "ä" * size
        client.send(["in ", "three ", "pieces"])
        assert client.recv() == "in three pieces"
        assert client.response is not None
        assert ("permessage-deflate" in client.response.headers.get("Sec-WebSocket-Extensions", "")) == bool(
            compression
        )


def test_subprotocol_and_headers_reach_the_client() -> None:
    with Harness(STARLETTE) as server, client_of(server, "/echo", subprotocols=["v1", "v2"]) as client:
        assert client.subprotocol == "v2"
        assert client.response is not None
        assert client.response.headers["x-app"] == "starlette"


def test_a_denial_response_reaches_the_client() -> None:
    with Harness(STARLETTE) as server:
        with pytest.raises(InvalidStatus) as caught, client_of(server, "/reject"):
            pass
        assert caught.value.response.status_code == 409
        assert caught.value.response.headers["x-why"] == "busy"
        assert caught.value.response.body == b"not today"
        with pytest.raises(InvalidStatus) as caught, client_of(server, "/nowhere"):
            pass
        assert caught.value.response.status_code == 403


def test_a_careless_app_writes_nothing_when_its_client_goes(capfd: pytest.CaptureFixture[str]) -> None:
    with Harness(STARLETTE) as server:
        for end in ("close", "drop"):
            with client_of(server, "/careless") as client:
                client.send(b"x")
                assert client.recv() == b"x"
                if end == "drop":
                    client.socket.close()
        eventually(lambda: not server.call(server.service.bridge.is_running))
    assert capfd.readouterr().err == ""


def test_fastapi_with_parameters_dependencies_and_state() -> None:
    with Harness(fast) as server:
        with client_of(server, "/rooms/7?token=right") as client:
            assert client.recv() == '{"room":7,"token":"right","greeting":"hello"}'
            client.send("shout")
            assert client.recv() == "SHOUT"
        with pytest.raises(InvalidStatus) as caught, client_of(server, "/rooms/7?token=wrong"):
            pass
        assert caught.value.response.status_code == 403


def test_the_client_learns_that_the_service_restarts() -> None:
    with Harness(STARLETTE) as server, client_of(server, "/echo") as client:
        server.call(lambda: server.service.drain(None))
        with pytest.raises(ConnectionClosed) as caught:
            client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
        eventually(lambda: server.empties == 1)


async def talk_over_tls(server: Harness, context: ssl.SSLContext) -> None:
    # The client with threads won't do: its two would use one OpenSSL object at the same time.
    url = f"wss://localhost:{server.address[1]}/echo"
    async with connect_async(url, ssl=context, compression=None) as client:
        for size in (5, 70_000, 900_000):
            await client.send("x" * size)
            assert await client.recv() == "x" * size
        await (await client.ping())
    async with connect_async(url, ssl=context) as client:
        server.call(lambda: server.service.drain(None))
        with pytest.raises(ConnectionClosed) as caught:
            await client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012


def test_over_tls_it_is_wss_and_everything_else_is_the_same(papers: Papers) -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            seen.append(scope)
        await STARLETTE(scope, receive, send)

    with served(papers, app) as server:
        server.call(lambda: server.service.set_limits(Limits(closing=0.5)))
        with dialled(server, papers.client()) as raw:
            raw.sendall(HANDSHAKE.replace(b"/chat", b"/echo") + frame(3))
            assert read_all(raw).endswith(b"invalid opcode")
        eventually(lambda: server.service.connections == 0)
        asyncio.run(asyncio.wait_for(talk_over_tls(server, papers.client()), 30))
        assert [scope["scheme"] for scope in seen] == ["wss"] * 3
        assert seen[0]["extensions"]["tls"]["tls_version"] >= 0x0303
        eventually(lambda: server.empties == 1)
