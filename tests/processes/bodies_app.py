"""Large bodies, both ways, in plain ASGI and in the frameworks: `/answer` streams one, `/file` sends one, `/upload`
takes one slowly and tells how much it was."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from fastapi import FastAPI
from fastapi.responses import StreamingResponse as FastStreamingResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

Message = dict[str, Any]

PIECE = bytes(range(256)) * 256
COUNT = 1600  # pieces of an answer: 100 MiB
PAUSE_EVERY = 1 << 20  # bytes of an upload, after which the app is busy with something else for a moment
PAUSE_S = 0.01
FILE = os.path.abspath("file")


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(COUNT):
        yield PIECE


async def count(body: AsyncIterator[bytes]) -> bytes:
    """The size of `body`, taken slowly."""
    size = paused = 0
    async for piece in body:
        size += len(piece)
        if size - paused >= PAUSE_EVERY:
            paused = size
            await asyncio.sleep(PAUSE_S)
    return b"%d" % size


async def plain(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """The same without a framework."""
    if scope["type"] == "lifespan":
        return

    async def body() -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            yield message["body"]

    content = await count(body())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/file":
        await send({"type": "http.response.pathsend", "path": FILE})
        return
    if scope["path"] == "/answer":
        async for piece in pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        content = b""
    await send({"type": "http.response.body", "body": content})


async def answer(_request: Request) -> Response:
    return StreamingResponse(pieces())


async def file(_request: Request) -> Response:
    return FileResponse(FILE)


async def upload(request: Request) -> Response:
    return PlainTextResponse(await count(request.stream()))


starlette = Starlette(
    routes=[Route("/answer", answer), Route("/file", file), Route("/upload", upload, methods=["GET", "POST"])]
)

fastapi = FastAPI()


@fastapi.get("/answer")
async def fastapi_answer() -> FastStreamingResponse:
    return FastStreamingResponse(pieces())


fastapi.add_api_route("/file", file, response_model=None)
fastapi.add_api_route("/upload", upload, methods=["GET", "POST"], response_model=None)


async def django_answer(_request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(pieces())


@csrf_exempt  # type: ignore[untyped-decorator]
async def django_upload(request: HttpRequest) -> HttpResponse:
    async def body() -> AsyncIterator[bytes]:
        while piece := request.read(65536):
            yield piece

    return HttpResponse(await count(body()))


urlpatterns = [path("answer", django_answer), path("upload", django_upload)]
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="tests", MIDDLEWARE=[])
django.setup()
django_asgi = get_asgi_application()
