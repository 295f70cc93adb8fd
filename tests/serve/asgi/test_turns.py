"""Requests of one turn share a task, and none of them can tell."""

from __future__ import annotations

import asyncio
import contextvars
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from supervisor.serve.asgi.turns import ALONE, Turns
from supervisor.serve.asgi.turns import NAME as NAME_OF_TASK
from supervisor.serve.line import Line
from supervisor.serve.patience import Patience

App = Callable[[Any, Any, Any], Any]

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME")


class Exchange:
    """Keeps what its turn tells it. The app gets it as its scope."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.failures: list[BaseException | None] = []
        self.receive = self.send = None
        self.has_waited = False
        self.since = time.monotonic()
        self.gone = self.is_ending = False
        self.path = b"/"

    def scope(self, _bridge: object) -> Exchange:
        return self

    def queue(self) -> None:
        pass

    def unqueue(self) -> None:
        pass

    def has_task(self, task: asyncio.Task[None]) -> None:
        self.task = task

    def waits(self) -> None:
        self.has_waited = True

    def ended(self, failure: BaseException | None) -> None:
        self.failures.append(failure)


def start(app: App, count: int) -> tuple[Turns, list[Exchange]]:
    """`count` requests in one turn of the running loop."""
    gathering = SimpleNamespace(post=lambda: None)
    service = SimpleNamespace(context=contextvars.copy_context(), inflight=0, capacity=1000, gathering=gathering)
    bridge: Any = SimpleNamespace(loop=asyncio.get_running_loop(), app=app, service=service, current=SimpleNamespace())
    line: Line[Any] = Line(Patience(bridge.loop, 0.0, frozenset(), lambda _requests, _seconds: None))
    turns = Turns(bridge, line)
    return turns, more(turns, count)


def more(turns: Turns, count: int) -> list[Exchange]:
    exchanges = [Exchange() for _ in range(count)]
    for exchange in exchanges:
        if turns.waiting:
            turns.waiting.append(exchange)  # type: ignore[arg-type]
        else:
            turns.begin(exchange)  # type: ignore[arg-type]
    return exchanges


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_requests_that_do_not_wait_share_a_task_and_run_in_order() -> None:
    async def test() -> None:
        seen: list[tuple[Exchange, int]] = []

        async def app(scope: Exchange, _receive: object, _send: object) -> None:
            seen.append((scope, id(asyncio.current_task())))

        turns, exchanges = start(app, 5)
        assert turns.is_running()
        await until(lambda: len(seen) == 5)
        assert [each for each, _ in seen] == exchanges
        assert len({task for _, task in seen}) == 1
        assert [each.failures for each in exchanges] == [[None]] * 5
        assert not turns.is_running()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test)


def test_what_one_raises_is_told_of_it_alone() -> None:
    async def test() -> None:
        async def app(scope: Exchange, _receive: object, _send: object) -> None:
            if scope is exchanges[1]:
                raise KeyError("mine")
            if scope is exchanges[2]:
                raise SystemExit(3)

        _, exchanges = start(app, 4)
        await until(lambda: exchanges[3].failures)
        assert [type(each.failures[0]) for each in exchanges] == [type(None), KeyError, SystemExit, type(None)]

    run(test)


@pytest.mark.parametrize("inherited", [False, True])
def test_the_context_of_one_is_not_seen_by_the_next(inherited: bool) -> None:
    async def test() -> None:
        seen: list[str] = []

        async def app(_scope: Exchange, _receive: object, _send: object) -> None:
            seen.append(NAME.get("none"))
            NAME.set("changed")

        start(app, 4)
        await until(lambda: len(seen) == 4)
        assert seen == ["inherited" if inherited else "none"] * 4
        assert NAME.get("none") == seen[0]

    async def with_inherited() -> None:
        NAME.set("inherited")
        await test()

    run(with_inherited if inherited else test)


@pytest.mark.parametrize("keep", [lambda task, kept: kept.append(task), lambda task, kept: kept.append(_weak(task))])
def test_a_task_that_somebody_keeps_is_no_other_requests_task(keep: Callable[[Any, list[Any]], None]) -> None:
    async def test() -> None:
        kept: list[Any] = []

        async def app(_scope: Exchange, _receive: object, _send: object) -> None:
            keep(asyncio.current_task(), kept)

        _, exchanges = start(app, 6)
        await until(lambda: all(each.failures for each in exchanges))
        tasks = [each() if callable(each) else each for each in kept]
        assert len({id(task) for task in tasks if task is not None}) == len(
            [task for task in tasks if task is not None]
        )
        assert len(kept) == 6

    run(test)


def _weak(task: Any) -> Any:
    return weakref.ref(task)


def test_one_that_cancels_itself_cancels_no_other() -> None:
    async def test() -> None:
        async def app(scope: Exchange, _receive: object, _send: object) -> None:
            if scope is exchanges[0]:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            else:
                await asyncio.sleep(0)

        _, exchanges = start(app, 3)
        await until(lambda: all(each.failures for each in exchanges))
        assert [each.failures for each in exchanges] == [[None]] * 3

    run(test)


def test_the_first_that_waits_keeps_its_task_and_holds_up_nobody() -> None:
    async def test() -> None:
        gate = asyncio.Event()
        begun: list[Exchange] = []
        ended: list[bool] = []

        async def app(scope: Exchange, _receive: object, _send: object) -> None:
            before = asyncio.current_task()
            begun.append(scope)
            if scope is not exchanges[0]:
                await gate.wait()
            ended.append(asyncio.current_task() is before)
            assert scope is exchanges[0] or scope.task is before

        turns, exchanges = start(app, 4)
        await until(lambda: len(begun) == 4)
        assert len({each.task for each in exchanges}) == 4
        assert not turns.is_running()
        gate.set()
        await until(lambda: len(ended) == 4)
        assert all(ended)
        await until(lambda: all(each.failures == [None] for each in exchanges))

    run(test)


def test_sharing_begins_again_when_enough_have_not_waited() -> None:
    async def test() -> None:
        waits = True
        seen: list[int] = []

        async def app(_scope: Exchange, _receive: object, _send: object) -> None:
            seen.append(id(asyncio.current_task()))
            if waits:
                await asyncio.sleep(0)

        turns, exchanges = start(app, 1)
        await until(lambda: exchanges[0].failures)
        waits = False
        seen.clear()
        alone = more(turns, ALONE)
        assert not turns.waiting
        await until(lambda: all(each.failures for each in alone))
        seen.clear()
        more(turns, 3)
        await until(lambda: len(seen) == 3)
        assert len(set(seen)) == 1

    run(test)


def test_a_task_cancelled_before_it_began_is_told_to_all_its_requests_and_the_next_ones_are_served() -> None:
    async def test() -> None:
        async def app(_scope: Exchange, _receive: object, _send: object) -> None:
            pass

        turns, exchanges = start(app, 3)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await until(lambda: all(each.failures for each in exchanges))
        assert all(isinstance(each.failures[0], asyncio.CancelledError) for each in exchanges)
        (late,) = more(turns, 1)
        await until(lambda: late.failures)
        assert late.failures == [None]

    run(test)


def test_those_whose_turn_has_not_come_can_be_called_off() -> None:
    async def test() -> None:
        called: list[Exchange] = []

        async def app(scope: Exchange, _receive: object, _send: object) -> None:
            called.append(scope)

        turns, exchanges = start(app, 3)
        turns.cancel()
        assert all(isinstance(each.failures[0], asyncio.CancelledError) for each in exchanges)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not called
        assert not turns.is_running()

    run(test)


def test_cancelling_one_that_waits_reaches_what_it_waits_for() -> None:
    async def test() -> None:
        waited_for: list[asyncio.Future[None]] = []
        caught: list[str] = []

        async def app(_scope: Exchange, _receive: object, _send: object) -> None:
            waited_for.append(asyncio.get_running_loop().create_future())
            try:
                await waited_for[0]
            except asyncio.CancelledError:
                caught.append("cancelled")
                await asyncio.sleep(0)  # an app may wait while it clears up
                caught.append("cleared up")
                raise

        _, (exchange,) = start(app, 1)
        await until(lambda: exchange.task)
        assert exchange.task is not None
        exchange.task.cancel()
        await until(lambda: exchange.failures)
        assert caught == ["cancelled", "cleared up"]
        assert waited_for[0].cancelled()
        assert isinstance(exchange.failures[0], asyncio.CancelledError)

    run(test)


def test_an_app_that_swallows_what_its_first_wait_raises_ends_well() -> None:
    async def test() -> None:
        async def app(_scope: Exchange, _receive: object, _send: object) -> None:
            failing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(failing.set_exception, ValueError("no"))
            with pytest.raises(ValueError, match="no"):
                await failing

        _, (exchange,) = start(app, 1)
        await until(lambda: exchange.failures)
        assert exchange.failures == [None]

    run(test)


def test_timeouts_task_groups_and_cancel_scopes_work_in_the_first_step_and_after() -> None:
    async def test() -> None:
        async def app(_scope: Exchange, _receive: object, _send: object) -> None:
            async with asyncio.timeout(60):  # noqa: ASYNC100 - nothing waits in it: that's the point
                pass
            with anyio.move_on_after(0.001) as scope:
                await anyio.sleep(60)
            assert scope.cancelled_caught
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.sleep(60)

        _, exchanges = start(app, 5)
        await until(lambda: all(each.failures for each in exchanges))
        assert [each.failures for each in exchanges] == [[None]] * 5

    run(test)


def test_anything_that_can_be_awaited_is_an_app() -> None:
    async def test() -> None:
        class Waits:
            def __await__(self) -> Generator[Any, None, None]:
                yield from asyncio.sleep(0).__await__()

        def app(_scope: Exchange, _receive: object, _send: object) -> Awaitable[None]:
            return Waits()

        _, exchanges = start(app, 2)
        await until(lambda: all(each.failures for each in exchanges))
        assert [each.failures for each in exchanges] == [[None]] * 2

    run(test)


def test_what_is_to_be_called_when_the_task_is_done_is_called() -> None:
    async def test() -> None:
        done: list[object] = []

        async def app(_scope: Exchange, _receive: object, _send: object) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.add_done_callback(done.append)

        start(app, 3)
        await until(lambda: len(done) == 3)

    run(test)


@pytest.mark.parametrize(
    "leave",
    [
        lambda task, kept: task.add_done_callback(kept.append),
        lambda task, kept: (task.cancel(), task.uncancel()),
        lambda task, kept: task.set_name("mine"),
    ],
    ids=["a callback", "a cancellation taken back", "a name"],
)
def test_what_one_leaves_with_its_task_the_next_does_not_find(leave: Callable[[Any, list[Any]], object]) -> None:
    async def test() -> None:
        kept: list[object] = []
        names: list[str] = []
        wait = asyncio.Event()

        async def app(scope: Exchange, _receive: object, _send: object) -> None:
            task = asyncio.current_task()
            assert task is not None
            names.append(task.get_name())
            if scope is exchanges[0]:
                leave(task, kept)
            else:
                await wait.wait()

        _, exchanges = start(app, 3)
        await until(lambda: exchanges[0].failures and len(names) == 3)
        await until(lambda: len(kept) == 1 or not kept)
        done = len(kept)
        wait.set()
        await until(lambda: all(each.failures for each in exchanges))
        assert [each.failures for each in exchanges] == [[None]] * 3
        assert len(kept) == done
        assert names == [NAME_OF_TASK] * 3

    run(test)
