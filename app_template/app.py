"""A small service: what it needs is opened once a worker, its settings come from the environment."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypedDict

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse


@dataclass(frozen=True)
class Settings:
    """Read when the app starts, so a rolling restart is enough to change them."""

    greeting: str

    @classmethod
    def from_environment(cls) -> Settings:
        return cls(greeting=os.environ.get("GREETING", "Hello"))


class State(TypedDict):
    """What the lifespan opens and every request of this worker sees as `request.state`."""

    settings: Settings
    started: float


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
    """Runs once in each worker: open pools and clients before the `yield`, close them after it."""
    yield {"settings": Settings.from_environment(), "started": time.monotonic()}


app = FastAPI(title="A service on holdfast", lifespan=lifespan)


@app.get("/")
async def index(request: Request) -> dict[str, str | int]:
    """Which worker answered: the pid changes from request to request, and after a roll."""
    return {"message": f"{request.state.settings.greeting} from holdfast", "pid": os.getpid()}


@app.get("/health")
async def health(request: Request) -> dict[str, str | float]:
    """Asked by holdfast before a worker gets traffic (`ready_path`); check here what a request can't do without."""
    return {"status": "ok", "uptime_s": round(time.monotonic() - request.state.started, 3)}


@app.get("/events")
async def events(request: Request) -> StreamingResponse:
    """Server-sent events. The browser's `EventSource` comes back by itself when the stream ends, to the new release."""
    holdfast = request.scope.get("extensions", {}).get("holdfast", {})
    draining = holdfast.get("draining") or asyncio.Event()  # without holdfast, in tests, nobody leaves
    return StreamingResponse(ticks(draining), media_type="text/event-stream")


async def ticks(draining: asyncio.Event, pause: float = 1.0) -> AsyncIterator[str]:
    """An event each `pause` seconds, until this worker leaves: what goes on then is cut at `drain_timeout`."""
    number = 0
    while not draining.is_set():
        number += 1
        yield f"id: {number}\ndata: {os.getpid()}\n\n"
        with suppress(TimeoutError):
            await asyncio.wait_for(draining.wait(), pause)
