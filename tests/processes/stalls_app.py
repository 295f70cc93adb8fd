"""Apps that block: `app` by ASGI, `wsgi` by WSGI. The path says how, the query for how many seconds.

`/nap` sleeps on the loop, `/later` after having waited, `/lock` waits for a lock that another thread holds, `/sum`
computes in C code that keeps the interpreter, `/endless` for ever, `/endless-later` after having waited, `/regex`
matches for ever, `/wait` waits as one should, `/slowly` sends a byte now and then, `/pid` answers.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

Message = dict[str, Any]
Environ = dict[str, Any]
HELD = threading.Lock()
HELD.acquire()


def nap(seconds: float) -> None:
    time.sleep(seconds)


def add_up(count: int) -> int:
    return sum(range(count))


def block(path: str, amount: float) -> None:
    if path in ("/nap", "/later"):
        nap(amount)
    elif path == "/lock":
        HELD.acquire(timeout=amount)
    elif path == "/sum":
        add_up(int(amount * 50_000_000))
    elif path in ("/endless", "/endless-later"):
        add_up(10**10)
    elif path == "/regex":
        re.match("(a+)+$", "a" * 60 + "b")


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    while scope["type"] == "lifespan":
        step = (await receive())["type"]
        await send({"type": f"{step}.complete"})
        if step == "lifespan.shutdown":
            return
    path, amount = scope["path"], float(scope["query_string"] or 0)
    if path in ("/wait", "/later", "/endless-later"):
        await asyncio.sleep(amount if path == "/wait" else 0.05)
    block(path, amount)
    body = b"%d" % os.getpid()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def drip(seconds: float) -> Iterator[bytes]:
    for _ in range(int(seconds / 0.2)):
        time.sleep(0.2)
        yield b"."


def wsgi(environ: Environ, start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    path, amount = environ["PATH_INFO"], float(environ["QUERY_STRING"] or 0)
    block(path, amount)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return drip(amount) if path == "/slowly" else [b"%d" % os.getpid()]
