from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.errors import RefusedError
from supervisor.kernel.reactor import Reactor
from supervisor.master import surveys
from supervisor.master.surveys import MOST_AT_ONCE, Surveys
from supervisor.messages.heap import Heap

HEAP = Heap(seconds=1.0)


class Scene:
    """Surveys of workers that only note that they were asked."""

    def __init__(self) -> None:
        def fail(error: Exception) -> None:
            raise error

        self.reactor = Reactor(fail)
        self.surveys = Surveys(self.reactor)
        self.asked: list[tuple[int, float, int]] = []
        self.answers: list[Heap | RefusedError] = []

    def worker(self, number: int) -> Any:
        def survey(seconds: float, frames: int) -> None:
            self.asked.append((number, seconds, frames))

        return SimpleNamespace(number=number, slot=number, survey=survey)

    def ask(self, worker: Any, seconds: float = 5.0) -> None:
        self.surveys.ask(worker, seconds, 1, self.answers.append)


@pytest.fixture
def scene() -> Any:
    it = Scene()
    yield it
    it.reactor.close()


def test_a_worker_is_asked_and_its_answer_passed_on(scene: Scene) -> None:
    worker = scene.worker(1)
    scene.ask(worker)
    assert scene.asked == [(1, 5.0, 1)]
    scene.surveys.answered(worker, HEAP)
    scene.surveys.answered(worker, HEAP)  # unasked
    assert scene.answers == [HEAP]


def test_a_worker_is_looked_at_for_one_at_a_time(scene: Scene) -> None:
    worker = scene.worker(1)
    scene.ask(worker)
    with pytest.raises(RefusedError, match="is being looked at already"):
        scene.ask(worker)
    scene.surveys.answered(worker, HEAP)
    scene.ask(worker)
    assert len(scene.asked) == 2


def test_only_a_few_of_an_app_are_looked_at_at_once(scene: Scene) -> None:
    for number in range(MOST_AT_ONCE):
        scene.ask(scene.worker(number))
    with pytest.raises(RefusedError, match="4 workers of the app are being looked at already"):
        scene.ask(scene.worker(99))


def test_the_end_of_the_worker_is_the_answer(scene: Scene) -> None:
    worker = scene.worker(1)
    scene.ask(worker)
    scene.surveys.ended(worker)
    (answer,) = scene.answers
    assert str(answer) == "the worker has ended meanwhile"


def test_a_worker_that_says_nothing_is_not_waited_for_for_ever(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys, "PATIENCE", 0.01)
    scene.ask(scene.worker(1), seconds=0.01)
    scene.reactor.call_later(0.2, scene.reactor.stop)
    scene.reactor.run()
    (answer,) = scene.answers
    assert "is its event loop blocked?" in str(answer)
