"""What is told of kills that are refused, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from supervisor.master.news import News
from supervisor.master.restraint import Restraint
from supervisor.watch.budget import QUIET, SPAN


class Clock:
    """The reactor's time, set by hand."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


class Journal:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, dict[str, Any]]] = []

    def event(self, name: str, text: str, **fields: Any) -> None:
        self.told.append((name, text, fields))


def restrained() -> tuple[Restraint, Clock, Journal]:
    clock, journal = Clock(), Journal()
    news = News(journal, "web")  # type: ignore[arg-type]
    return Restraint(clock, news), clock, journal  # type: ignore[arg-type]


def worker(number: int) -> Any:
    return SimpleNamespace(number=number, slot=number, pid=100 + number, generation=1)


def test_each_worker_that_is_left_alone_is_told_of_once_with_what_it_should_have_been_killed_for() -> None:
    restraint, clock, journal = restrained()
    assert restraint.may_kill(worker(1), "blocked for 30 s", 1)
    for second in range(5):
        clock.time = float(second)
        assert not restraint.may_kill(worker(2), "blocked for 31 s", 1)
        assert not restraint.may_kill(worker(3), "blocked for 32 s", 1)
    assert [(fields["slot"], fields["level"], fields["why"]) for _, _, fields in journal.told] == [
        (2, "warning", "blocked for 31 s"),
        (3, "warning", "blocked for 32 s"),
    ]
    assert "max_restarts, 1 in a minute" in journal.told[0][1]


def test_being_degraded_has_a_reason_that_stays_the_same_until_it_is_over() -> None:
    restraint, clock, journal = restrained()
    assert (restraint.is_degraded, restraint.why) == (False, "")
    for _ in range(3):
        restraint.may_kill(worker(1), "blocked", 2)
    assert restraint.is_degraded
    assert "2 workers killed within 60 s" in restraint.why
    clock.time = QUIET
    restraint.look(2)
    assert restraint.is_degraded
    clock.time = SPAN
    restraint.look(2)
    assert (restraint.is_degraded, restraint.why) == (False, "")
    assert restraint.may_kill(worker(1), "blocked", 0) is False
    assert len(journal.told) == 2, "after a recovery it is told again"
