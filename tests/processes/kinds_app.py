"""Apps of every kind that holdfast tells apart. Each answers which protocol it was called by, and in which thread."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]

MEETING = threading.Barrier(4)
under_way: set[object] = set()
most_at_once = 0


async def asgi_function(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise ValueError("no lifespan here")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"asgi"})


class AsgiClass:
    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await asgi_function(scope, receive, send)


def wsgi_function(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"wsgi"]


class WsgiClass:
    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return wsgi_function(environ, start_response)


asgi_object, wsgi_object = AsgiClass(), WsgiClass()
asgi_partial = functools.partial(asgi_function)
wsgi_partial = functools.partial(wsgi_function)


def make_asgi() -> object:
    return asgi_function


def make_wsgi() -> object:
    return wsgi_object


def vague(*arguments: Any) -> object:
    """Nobody can tell what this is but by being told."""
    return wsgi_function(*arguments)


def threads(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """`/meet` needs four requests at once; `/alone` tells how many there ever were, and the thread it runs in."""
    global most_at_once
    me = object()
    under_way.add(me)
    most_at_once = max(most_at_once, len(under_way))
    text = f"{threading.current_thread().name} {most_at_once} {os.getpid()}"
    if environ["PATH_INFO"] == "/meet":
        MEETING.wait(10)
        text = "met"
    under_way.discard(me)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
