"""The service in FastAPI."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

MARKS = {"x-pid": str(os.getpid()), "x-release": Path("release").read_text()}


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, str]]:
    MARKS["x-pid"] = str(os.getpid())
    yield {"greeting": "hello"}


app = FastAPI(lifespan=lifespan)


@app.get("/echo")
async def echo(request: Request) -> Response:
    return Response(request.url.query, headers=MARKS)


@app.post("/echo")
async def echo_body(request: Request) -> Response:
    return Response(await request.body(), headers=MARKS)


@app.get("/items/{number}")
def item(number: int, request: Request, response: Response) -> dict[str, object]:
    """Not async: it runs in a thread of the worker."""
    response.headers.update(MARKS)
    return {"item": number, "greeting": request.state.greeting}


@app.get("/stream")
def stream() -> StreamingResponse:
    def pieces() -> Iterator[bytes]:
        for number in range(1000):
            yield b"%03d," % number

    return StreamingResponse(pieces(), headers=MARKS)


@app.get("/error")
async def error() -> None:
    raise LookupError("no such luck")
