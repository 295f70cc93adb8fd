"""ASGI lifespan (spec 2.0) through a service: what the app is told and when, and what becomes of its state."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from supervisor.errors import AppError
from tests.serve.harness import Harness, answer, eventually, split_answers

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def test_the_scope_is_what_the_spec_says_and_stays_the_same() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope.copy())
        assert await receive() == {"type": "lifespan.startup"}
        await send({"type": "lifespan.startup.complete"})
        assert await receive() == {"type": "lifespan.shutdown"}
        seen.append(scope)
        await send({"type": "lifespan.shutdown.complete"})

    with Harness(app):
        pass
    first, last = seen
    assert first == last == {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    assert first["state"] is last["state"]


def test_requests_get_shallow_copies_of_the_state_as_it_is_then() -> None:
    shared: list[int] = []
    states: list[dict[str, Any]] = []
    later = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            states.append(scope["state"])
            scope["state"]["own"] = 1
            later.set()
            await answer(send)
            return
        await receive()
        state = scope["state"]
        state["shared"] = shared
        await send({"type": "lifespan.startup.complete"})
        await later.wait()
        state["later"] = 1
        await receive()
        assert "own" not in state
        await send({"type": "lifespan.shutdown.complete"})

    with Harness(app) as server:
        eventually(lambda: server.ask(GET) and "later" in states[-1])
    assert states[0] == {"shared": [], "own": 1}
    assert states[-1] == {"shared": [], "own": 1, "later": 1}
    assert all(state["shared"] is shared for state in states)
    assert len({id(state) for state in states}) == len(states)


@pytest.mark.parametrize("when", ["at once", "after the startup message"])
@pytest.mark.parametrize("how", [ValueError("no lifespan here"), None])
def test_an_app_that_ends_before_its_verdict_is_served_and_told_no_more(when: str, how: Exception | None) -> None:
    told: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answer(send, b"%d" % len(scope["state"]))
            return
        told.append(scope["type"])
        if when != "at once":
            told.append((await receive())["type"])
        if how is not None:
            raise how

    with Harness(app) as server:
        assert split_answers(server.ask(GET))[0][2] == b"0"
    assert told == (["lifespan"] if when == "at once" else ["lifespan", "lifespan.startup"])


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"type": "lifespan.startup.failed", "message": "no database"}, "no database"),
        ({"type": "lifespan.startup.failed", "message": ""}, "the app gave no reason"),
        ({"type": "lifespan.startup.failed"}, "the app gave no reason"),
    ],
)
def test_a_failed_startup_ends_the_worker_with_its_reason(message: dict[str, str], why: str) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send(message)

    with pytest.raises(AppError, match=f"^lifespan startup failed: {why}$"), Harness(app):
        raise AssertionError("it must not start")
