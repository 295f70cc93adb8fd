"""The service in Starlette."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

MARKS = {"x-pid": str(os.getpid()), "x-release": Path("release").read_text()}


@contextlib.asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, str]]:
    MARKS["x-pid"] = str(os.getpid())
    yield {"greeting": "hello"}


async def echo(request: Request) -> Response:
    body = await request.body() if request.method == "POST" else request.url.query.encode()
    return Response(body, headers=MARKS)


async def item(request: Request) -> Response:
    return JSONResponse({"item": request.path_params["number"], "greeting": request.state.greeting}, headers=MARKS)


async def stream(_request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield b"%03d," % number

    return StreamingResponse(pieces(), headers=MARKS)


async def error(_request: Request) -> Response:
    raise LookupError("no such luck")


app = Starlette(
    routes=[
        Route("/echo", echo, methods=["GET", "POST"]),
        Route("/items/{number:int}", item),
        Route("/stream", stream),
        Route("/error", error),
    ],
    lifespan=lifespan,
)
