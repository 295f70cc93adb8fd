"""The app under torture, by ASGI (`app`) and WSGI (`wsgi`): does to itself what the path says, as much as the query.

`/block` sleeps where it is, for seconds; `/seize` computes as long in C code; `/wait` waits as one should; `/work`
computes for milliseconds; `/grow` takes megabytes and `/leak` kilobytes, for good; `/signal` sends itself a signal;
`/poison` reads where no memory is. Everything else answers its query, and a POST its body.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Message = dict[str, Any]
HELD: list[bytes] = []


def seize(seconds: float) -> None:
    """C code that doesn't let go of the interpreter: no Python runs meanwhile, of any thread."""
    sum(range(int(seconds * 50_000_000)))


def work(seconds: float) -> None:
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        pass


def do(path: str, amount: float) -> None:
    if path == "/block":
        time.sleep(amount)
    elif path == "/seize":
        seize(amount)
    elif path == "/work":
        work(amount / 1e3)
    elif path in ("/grow", "/leak"):
        HELD.append(b"x" * int(amount * (2**20 if path == "/grow" else 2**10)))
    elif path == "/signal":
        os.kill(os.getpid(), int(amount))
    elif path == "/poison":
        ctypes.string_at(0)


def deed(path: str, query: bytes) -> float:
    """How much is asked for: what stands before the load's own token."""
    return float(query.partition(b"&")[0] or 0) if path != "/" else 0.0


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """ASGI."""
    if scope["type"] != "http":
        raise NotImplementedError
    path, query = scope["path"], scope["query_string"]
    if path == "/wait":
        await asyncio.sleep(deed(path, query))
    do(path, deed(path, query))
    body = query
    if scope["method"] == "POST":
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
    headers = [(b"content-length", b"%d" % len(body)), (b"x-pid", b"%d" % os.getpid())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def wsgi(environ: Message, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """WSGI."""
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"].encode()
    if path == "/wait":
        time.sleep(deed(path, query))
    do(path, deed(path, query))
    body = environ["wsgi.input"].read() if environ["REQUEST_METHOD"] == "POST" else query
    start_response("200 OK", [("Content-Length", str(len(body))), ("x-pid", str(os.getpid()))])
    return [body]
