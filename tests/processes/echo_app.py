"""The app under load: ASGI 3, answers what `tests.processes.load` expects, and tells who answered.

Set in the environment, seconds: `IMPORT_SECONDS` (importing takes so long), `ANSWER_SECONDS` (so does each answer).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]

time.sleep(float(os.environ.get("IMPORT_SECONDS", "0")))
ANSWER_S = float(os.environ.get("ANSWER_SECONDS", "0.005"))
RELEASE = b"%.3f" % time.time()  # when this code was imported


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """A GET is answered with its query, a POST with its body."""
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    body = await read_body(receive) if scope["method"] == "POST" else scope["query_string"]
    await asyncio.sleep(ANSWER_S)
    headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", b"%d" % len(body)),
        (b"x-pid", b"%d" % os.getpid()),
        (b"x-release", RELEASE),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Callable[[], Awaitable[Message]]) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return bytes(body)


async def answer_lifespan(
    receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    while (message := await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": message["type"] + ".complete"})
