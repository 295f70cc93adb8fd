"""A worker asks its app whether it is ready, until it is, or nobody wants to know any more."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from supervisor.messages.wire import Waiting
from supervisor.serve.service import Service
from supervisor.worker import readiness


class App:
    """Gives these statuses at its `ready_path`, the last of them for good."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = statuses
        self.asked = 0
        self.told: list[Waiting] = []

    async def probe(self, path: str) -> int:
        assert path == "/health"
        self.asked += 1
        return self.statuses[min(self.asked, len(self.statuses)) - 1]

    def wait(self, patience: int = 1000) -> None:
        wanted = iter(range(patience))
        service = cast("Service", self)
        told: Any = self.told.append
        asyncio.run(readiness.wait_until_ready(service, "/health", lambda: next(wanted, None) is not None, told))

    def again(self) -> int | None:
        return asyncio.run(readiness.ask_again(cast("Service", self), "/health"))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FIRST_PAUSE", 0.0001)
    monkeypatch.setattr(readiness, "LONGEST_PAUSE", 0.0002)


def test_an_app_that_says_yes_is_asked_once() -> None:
    app = App(204)
    app.wait()
    assert (app.asked, app.told) == (1, [])


def test_each_reason_to_wait_is_told_once() -> None:
    app = App(503, 503, 500, 503, 0, 0, 399)
    app.wait()
    assert [each.reason for each in app.told] == [
        "ready_path /health answers 503",
        "ready_path /health answers 500",
        "ready_path /health answers 503",
        "ready_path /health does not answer",
    ]
    assert app.asked == 7


def test_an_app_that_is_not_wanted_any_more_is_not_asked() -> None:
    app = App(503)
    app.wait(patience=2)
    assert app.asked == 2


@pytest.mark.parametrize(
    ("statuses", "said", "asked"),
    [((200,), 200, 1), ((500, 0, 302), 302, 3), ((0, 500), 500, 3), ((404, 404, 0), 0, 3)],
)
def test_one_that_serves_is_asked_again_before_it_counts_as_not_ready(
    statuses: tuple[int, ...], said: int, asked: int
) -> None:
    app = App(*statuses)
    assert (app.again(), app.asked) == (said, asked)


def test_without_a_path_nobody_is_asked() -> None:
    assert asyncio.run(readiness.ask_again(cast("Service", None), None)) is None
