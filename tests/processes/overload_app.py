"""An app that takes what it is asked to: `/block?S` holds the event loop (or the thread), `/sleep?S` only waits.

Everything else is answered at once, with its query. `x-pid` tells who has answered.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Message = dict[str, Any]


async def asgi(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] != "http":
        raise NotImplementedError
    path, query = scope["path"], scope["query_string"]
    if path == "/block":
        time.sleep(float(query))  # noqa: ASYNC251  # on purpose
    elif path == "/sleep":
        await asyncio.sleep(float(query))
    body = b"" if path in ("/block", "/sleep") else query
    headers = [(b"content-length", b"%d" % len(body)), (b"x-pid", b"%d" % os.getpid())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def wsgi(environ: Message, start_response: Callable[..., Any]) -> Iterable[bytes]:
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path in ("/block", "/sleep"):
        time.sleep(float(query))
        query = ""
    start_response("200 OK", [("Content-Length", str(len(query))), ("x-pid", str(os.getpid()))])
    return [query.encode()]
