"""An app for both interfaces whose requests can be disturbed at any point, or fail by themselves.

By path: `/read` takes the whole body, `/sip` a piece of it, `/stream?SIZE` answers for as long as somebody takes it, in
pieces of that size, `/drip` in three pieces with pauses, `/wait` waits for its client's end, `/mark?TEXT` says so on
stderr; `/raise-...` raises before its answer has begun, after its head, in the midst of its body, behind the whole
answer, or after it has heard that its client has gone. All else is answered. A WebSocket is accepted and listened to,
and sent to without an end on `/stream?SIZE`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Environ = dict[str, Any]

PIECE = b"x" * 1000
PLAIN = [(b"content-type", b"text/plain")]


class OnPurposeError(Exception):
    """The app's own failure."""


def mark(query: str) -> None:
    sys.stderr.write(f"mark {query}\n")
    sys.stderr.flush()


def piece_of(query: str) -> bytes:
    return PIECE[: int(query or len(PIECE))]


async def talk(path: str, query: str, receive: Receive, send: Send) -> None:
    """A WebSocket: sends for as long as somebody takes it, or waits for its client's end."""
    await receive()
    await send({"type": "websocket.accept"})
    while path == "/stream":
        await send({"type": "websocket.send", "bytes": piece_of(query)})
    if path == "/raise-before":
        raise OnPurposeError(path)
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def asgi(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError
    path, query = scope["path"], scope["query_string"].decode()
    if scope["type"] == "websocket":
        await talk(path, query, receive, send)
        return
    if path == "/raise-before":
        raise OnPurposeError(path)
    if path in ("/wait", "/raise-when-gone"):
        while (await receive())["type"] != "http.disconnect":
            pass
        if path == "/raise-when-gone":
            raise OnPurposeError(path)
        return
    if path in ("/read", "/sip"):
        message = await receive()
        while path == "/read" and message.get("more_body"):
            message = await receive()
    if path == "/mark":
        mark(query)
    await send({"type": "http.response.start", "status": 200, "headers": PLAIN})
    if path == "/raise-after-head":
        raise OnPurposeError(path)
    if path == "/raise-in-body":
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        raise OnPurposeError(path)
    while path == "/stream":
        await send({"type": "http.response.body", "body": piece_of(query), "more_body": True})
    if path == "/drip":
        for _ in range(3):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
    if path == "/raise-behind":
        raise OnPurposeError(path)


def wsgi(environ: Environ, start_response: Callable[..., Any]) -> Iterator[bytes]:
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/raise-at-once":
        raise OnPurposeError(path)
    return _wsgi(path, query, environ, start_response)


def _wsgi(path: str, query: str, environ: Environ, start_response: Callable[..., Any]) -> Iterator[bytes]:
    if path == "/raise-before":
        raise OnPurposeError(path)
    if path == "/read":
        while environ["wsgi.input"].read(65536):
            pass
    if path == "/sip":
        environ["wsgi.input"].read(1)
    if path == "/mark":
        mark(query)
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/raise-after-head":
        raise OnPurposeError(path)
    if path == "/raise-in-body":
        yield PIECE
        raise OnPurposeError(path)
    while path == "/stream":
        yield piece_of(query)
    if path == "/drip":
        for _ in range(3):
            yield PIECE
            time.sleep(0.1)
    yield b"%d" % os.getpid()
    if path == "/raise-behind":
        raise OnPurposeError(path)
