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
def test_an_app_that_ends_before_its_verdict_is_served_and_told_no_more(
    when: str, how: Exception | None, capfd: pytest.CaptureFixture[str]
) -> None:
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
    assert (capfd.readouterr().err == "") is (when == "at once" or how is None)


def test_a_startup_that_raises_is_told_once_and_its_state_is_served_as_far_as_it_came(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answer(send, scope["state"]["first"])
            return
        await receive()
        scope["state"]["first"] = b"filled"
        raise ValueError("database is down")

    with Harness(app) as server:
        assert split_answers(server.ask(GET))[0][2] == b"filled"
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "holdfast: lifespan startup: the app raised an exception, and is served without lifespan"
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: database is down"
    assert sum(line.startswith("holdfast: ") for line in lines) == 1


@pytest.mark.parametrize("says_first", [True, False])  # Starlette says that its shutdown failed, and raises then
def test_a_lifespan_that_raises_while_the_app_serves_is_told_at_once_and_only_then(
    says_first: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            broken.set()
            await answer(send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await broken.wait()
        if says_first:
            await send({"type": "lifespan.shutdown.failed", "message": "the poller died"})
        raise ValueError("the poller died")

    err = ""
    with Harness(app) as server:
        assert split_answers(server.ask(GET))[0][2] == b"ok"

        def told() -> bool:
            nonlocal err
            err += capfd.readouterr().err
            return err.endswith("ValueError: the poller died\n")

        eventually(told)
        assert split_answers(server.ask(GET))[0][2] == b"ok"
    first, second, *_ = err.splitlines()
    assert first == "holdfast: lifespan serving: the app raised an exception"
    assert second == "Traceback (most recent call last):"
    assert err.count("holdfast: ") == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("asks", [True, False])
def test_a_lifespan_that_is_cancelled_at_the_end_is_no_failure(asks: bool, capfd: pytest.CaptureFixture[str]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        if asks:
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)  # type: ignore[union-attr]
        await asyncio.Event().wait()

    with Harness(app):
        pass
    assert capfd.readouterr().err == ""


def test_an_exit_in_the_startup_is_the_reason_and_no_second_line(capfd: pytest.CaptureFixture[str]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        raise SystemExit(4)

    with pytest.raises(AppError, match=r"^the app called exit\(4\) in its lifespan startup$"), Harness(app):
        raise AssertionError("it must not start")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"type": "lifespan.startup.failed", "message": "no database"}, "no database"),
        ({"type": "lifespan.startup.failed", "message": ""}, "the app gave no reason"),
        ({"type": "lifespan.startup.failed"}, "the app gave no reason"),
        ({"type": "lifespan.startup.failed", "message": None}, "the app gave no reason"),
    ],
)
@pytest.mark.parametrize("raises", [True, False])
def test_a_failed_startup_ends_the_worker_with_its_reason(
    message: dict[str, Any], why: str, raises: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send(message)
        if raises:  # as Starlette does
            raise ValueError(why)

    with pytest.raises(AppError, match=f"^lifespan startup failed: {why}$"), Harness(app):
        raise AssertionError("it must not start")
    assert capfd.readouterr().err == ""
