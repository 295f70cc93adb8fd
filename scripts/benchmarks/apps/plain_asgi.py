"""The ASGI app that every server is measured with: no framework, each path a kind of traffic."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

RECORD = {"id": 7, "name": "holdfast", "tags": ["supervisor", "asgi", "wsgi"], "text": "x" * 940}
PIECE = b"x" * 1024
PLAIN = (
    {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")],
    },
    {"type": "http.response.body", "body": b"Hello, World!"},
)  # fixed, as the answers of Go and nginx are that it stands beside


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _echo(receive, send)
    elif scope["path"] == "/":
        for message in PLAIN:
            await send(message)
    else:
        await ROUTES[scope["path"]](receive, send)


async def _json(_: Receive, send: Send) -> None:
    await _answer(send, b"application/json", json.dumps(RECORD).encode())


async def _ten_kilobytes(_: Receive, send: Send) -> None:
    await _answer(send, b"text/plain", PIECE * 10)


async def _post(receive: Receive, send: Send) -> None:
    message = await receive()
    body = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
    await _answer(send, b"text/plain", body)


async def _stream(_: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for _piece in range(64):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _compute(_: Receive, send: Send) -> None:
    until = time.thread_time() + 0.005
    while time.thread_time() < until:
        pass
    await _answer(send, b"text/plain", b"computed")


async def _block(_: Receive, send: Send) -> None:
    time.sleep(4)  # noqa: ASYNC251  # that is what is measured
    await _answer(send, b"text/plain", b"blocked")


async def _answer(send: Send, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": message["type"] + ".complete"})


ROUTES = {
    "/json": _json,
    "/10k": _ten_kilobytes,
    "/echo": _post,
    "/stream": _stream,
    "/compute": _compute,
    "/block": _block,
}
