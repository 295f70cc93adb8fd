"""Leaks dicts into a list with each request, as many as the query says, as ASGI (`app`) and as WSGI (`wsgi_app`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

HELD: list[dict[str, object]] = []


def leak(query: str) -> bytes:
    for number in range(int(query)):
        HELD.append({"id": number, "name": f"number {number}"})  # noqa: PERF401  # the line that leaks
    return str(len(HELD)).encode()


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": leak(scope["query_string"].decode())})


def wsgi_app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [])
    return [leak(environ["QUERY_STRING"])]
