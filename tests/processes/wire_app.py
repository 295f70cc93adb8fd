"""An ASGI app for what a client sees on the wire: streams both ways, hangs, fails, and tells what became of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PIECE = b"x" * 65536
told = {"sent": 0, "received": 0, "waits": 0, "disconnects": 0}


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return
    await {"/endless": endless, "/sluggish": sluggish, "/wait": wait, "/pieces": pieces, "/told": tell}.get(
        scope["path"], echo
    )(scope, receive, send)


async def start(send: Send, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """The body, or the path of a request without one."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    body = body or scope["path"].encode()
    await start(send, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.body", "body": body})


async def pieces(scope: Message, receive: Receive, send: Send) -> None:
    """An answer without a length, in three pieces."""
    await start(send)
    for piece in (b"one", b"two", b"three"):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


async def endless(scope: Message, receive: Receive, send: Send) -> None:
    """Sends for as long as somebody takes it."""
    await start(send)
    while True:
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        told["sent"] += len(PIECE)


async def sluggish(scope: Message, receive: Receive, send: Send) -> None:
    """Takes one piece of the body, and no more before the worker ends."""
    told["received"] += len((await receive())["body"])
    await asyncio.sleep(600)


async def wait(scope: Message, receive: Receive, send: Send) -> None:
    """Waits until the client has gone."""
    told["waits"] += 1
    while (await receive())["type"] != "http.disconnect":
        pass
    told["disconnects"] += 1


async def tell(scope: Message, receive: Receive, send: Send) -> None:
    await start(send)
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
