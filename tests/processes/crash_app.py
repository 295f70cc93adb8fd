"""Apps that can be made to die while they serve."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import threading
import time
from typing import Any


def fall() -> None:
    """Read from address 0: SIGSEGV."""
    ctypes.string_at(0)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    if path.startswith("/segv"):
        print(f"about to fall, with {os.environ.get('PASSWORD')}", file=sys.stderr, flush=True)
        fall()
    elif path == "/says":
        print("before the upgrade", file=sys.stderr, flush=True)
    elif path == "/exit":
        os._exit(3)
    elif path == "/later":
        await asyncio.sleep(0.3)
        fall()
    elif path == "/blocks":
        time.sleep(60)  # noqa: ASYNC251  (on purpose)
    elif path == "/waits":
        await asyncio.sleep(60)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """WSGI."""
    path = environ["PATH_INFO"]
    if path == "/segv":
        fall()
    elif path == "/waits":
        time.sleep(60)
    elif path == "/thread":
        threading.Thread(target=fall).start()
        time.sleep(60)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
