"""What becomes of verdicts on wear: events and recyclings, on a made-up clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.config.settings import AppSettings
from supervisor.master import wear
from supervisor.master.news import News
from supervisor.master.vitals import Vitals
from supervisor.master.wear import Wear
from supervisor.watch.limits import Limits

MB = 2**20


class Journal:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def event(self, name: str, text: str, **fields: Any) -> None:
        self.told.append({"event": name, "message": text, **fields})


class Scene:
    """An app with two workers, of which the first leaks."""

    def __init__(self, max_memory: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wear, "available_memory", lambda: 2000 * MB)
        self.journal = Journal()
        self.workers: list[Any] = [_worker(1), _worker(2)]
        self.rss = {1: 100 * MB, 2: 100 * MB}
        self.recycled: list[int] = []
        owner: Any = SimpleNamespace(
            releases={1: SimpleNamespace(settings=AppSettings(name="web", app="a:b"))},
            news=News(self.journal, "web"),  # type: ignore[arg-type]
            max_memory=lambda _settings: max_memory,
            recycle=lambda slot, _why: self.recycled.append(slot),
        )
        sampler: Any = SimpleNamespace(of=lambda worker: Vitals(rss_bytes=self.rss[worker.number]))
        self.wear = Wear(owner, sampler)

    def run(self, seconds: int, mb_per_second: float) -> None:
        for second in range(seconds):
            self.rss[1] += int(mb_per_second * MB)
            self.wear.look_for_leaks(self.workers, 100.0 + second)


def _worker(number: int) -> Any:
    return SimpleNamespace(
        number=number,
        slot=number,
        pid=100 + number,
        generation=1,
        began=0.0,
        is_admitted=True,
        is_leaving=False,
        limits=Limits(),
        requests=0,
    )


def test_a_leak_is_told_once_with_its_speed_and_the_time_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(1000 * MB, monkeypatch)
    scene.run(500, 1.0)
    (told,) = scene.journal.told
    assert (told["event"], told["slot"], told["pid"], told["level"]) == ("worker.leaking", 1, 101, "warning")
    assert told["mb_per_hour"] == pytest.approx(3600, rel=0.05)
    assert told["limit_bytes"] == 1000 * MB
    assert told["seconds_to_limit"] == pytest.approx(600, abs=60)
    assert "which comes to max_memory, 1000 MB, in 10 min" in told["message"]


def test_without_a_limit_it_is_held_against_an_even_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(None, monkeypatch)
    scene.run(500, 1.0)
    (told,) = scene.journal.told
    assert told["limit_bytes"] == 1000 * MB
    assert "its share of the memory, 1000 MB" in told["message"]


def test_a_worker_that_leaves_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(1000 * MB, monkeypatch)
    scene.workers[0].is_leaving = True
    scene.run(500, 1.0)
    assert scene.journal.told == []


def test_who_holds_too_much_goes_before_who_has_served_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(150 * MB, monkeypatch)
    scene.workers[0].limits = Limits(max_requests=10)
    scene.workers[0].requests = 11
    scene.rss[2] = 200 * MB
    scene.wear.look([(1, scene.workers[0]), (2, scene.workers[1])], 100.0)
    assert scene.recycled == [2, 1]
