"""The app that tests roll and replace: ASGI 3, tells who answers and from which release.

Tests write it into a folder of their own with `releases.release`, which changes `RELEASE` and adds code around.
Each import leaves a line in the file `imported`, so that a test knows which process has run it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

RELEASE = "first"

with open("imported", "a") as record:
    record.write(f"{os.getpid()} {RELEASE}\n")

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def on_startup(state: dict[str, Any]) -> None:
    """What a release does before it is ready."""
    state["started_by"] = os.getpid()


def on_shutdown() -> None:
    """What it leaves behind in the file `left`."""
    with open("left", "a") as record:
        record.write(f"{os.getpid()} {RELEASE}\n")


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """`/about` tells about the process; `/sleep?S` takes its time; anything else is an echo, as `load.Load` expects."""
    if scope["type"] == "lifespan":
        await live(scope, receive, send)
        return
    body = await whole_body(receive) if scope["method"] == "POST" else scope["query_string"]
    if scope["path"] == "/about":
        body = json.dumps(about(scope)).encode()
    await asyncio.sleep(float(scope["query_string"]) if scope["path"] == "/sleep" else 0.005)
    headers = [
        (b"content-length", b"%d" % len(body)),
        (b"x-pid", b"%d" % os.getpid()),
        (b"x-release", RELEASE.encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def about(scope: Message) -> Message:
    return {
        "release": RELEASE,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "state": scope["state"],
        "server": scope["server"],
        "cwd": os.getcwd(),
        "env": dict(os.environ),
        "frozen": gc.get_freeze_count(),
        "threads": [thread.name for thread in threading.enumerate()],
        "path": sys.path[0],
    }


async def whole_body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def live(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    try:
        await on_startup(scope["state"])
    except Exception as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    on_shutdown()
    await send({"type": "lifespan.shutdown.complete"})
