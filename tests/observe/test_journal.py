from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.config.settings import LogFormat
from supervisor.errors import RefusedError
from supervisor.kernel.reactor import Reactor
from supervisor.messages.events import Event
from supervisor.observe.journal import MAX_LISTENERS, RECENT, Journal
from supervisor.observe.sink import Sink
from tests.kernel.conftest import in_python
from tests.observe.test_sink import read_available


class Stage:
    """A journal whose stdout and stderr are pipes."""

    def __init__(self, reactor: Reactor, log_format: LogFormat) -> None:
        self._out, out = os.pipe()
        self._err, err = os.pipe()
        self.journal = Journal(
            Sink(reactor, out, "stdout", limit=10_000), Sink(reactor, err, "stderr"), log_format=log_format
        )
        self._fds = [self._out, self._err, out, err]

    def stdout(self) -> list[str]:
        return read_available(self._out).decode().splitlines()

    def stderr(self) -> list[str]:
        return read_available(self._err).decode().splitlines()

    def close(self) -> None:
        self.journal.close(timeout=0)
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def text(reactor: Reactor) -> Iterator[Stage]:
    stage = Stage(reactor, "text")
    yield stage
    stage.close()


@pytest.fixture
def as_json(reactor: Reactor) -> Iterator[Stage]:
    stage = Stage(reactor, "json")
    yield stage
    stage.close()


def test_an_event_goes_to_stderr_is_remembered_and_told(text: Stage) -> None:
    heard: list[Event] = []
    text.journal.subscribe(heard.append)
    before = time.time()
    event = text.journal.event("worker.ready", "in 0.2 s", app="web", slot=2, pid=17, generation=3, seconds=0.2)
    assert before <= event.ts <= time.time()
    assert event.fields == {"seconds": 0.2}
    assert list(text.journal.recent()) == heard == [event]
    [line] = text.stderr()
    assert line.split()[1:] == ["info", "web:2", "17", "worker.ready", "in", "0.2", "s"]
    assert text.stdout() == []


def test_an_event_in_json_is_the_contracts_object(as_json: Stage) -> None:
    as_json.journal.event("roll.rolled_back", "no import", level="error", app="web", generation=4, reason="ImportError")
    [line] = as_json.stderr()
    told: dict[str, Any] = json.loads(line)
    assert told.pop("ts") > 0
    assert told == {
        "event": "roll.rolled_back",
        "level": "error",
        "app": "web",
        "generation": 4,
        "message": "no import",
        "reason": "ImportError",
    }


def test_the_format_may_change_while_it_runs(text: Stage) -> None:
    text.journal.event("log", "as text")
    text.journal.log_format = "json"
    text.journal.event("log", "as json")
    first, second = text.stderr()
    assert first.endswith("as text")
    assert json.loads(second)["message"] == "as json"


def test_output_goes_to_the_stream_it_was_written_to_and_is_not_remembered(text: Stage) -> None:
    heard: list[Event] = []
    text.journal.subscribe(heard.append)
    text.journal.output("stdout", "web", 1, 17, 3, "hello")
    text.journal.output("stderr", "web", None, 16, 3, "importing\udcff")
    assert text.stdout() == ["web:1 | hello"]
    assert text.stderr() == ["web | importing\\udcff"]
    assert heard == list(text.journal.recent()) == []


def test_output_in_json_has_its_place_in_fields(as_json: Stage) -> None:
    as_json.journal.output("stdout", "web", 1, 17, 3, "hello")
    told = json.loads(as_json.stdout()[0])
    assert told.pop("ts") > 0
    assert told == {
        "event": "app.output",
        "app": "web",
        "slot": 1,
        "pid": 17,
        "generation": 3,
        "stream": "stdout",
        "line": "hello",
    }


@pytest.mark.parametrize("stage", ["text", "as_json"])
def test_dropped_output_is_told_in_the_format_of_the_log(stage: str, request: pytest.FixtureRequest) -> None:
    staged: Stage = request.getfixturevalue(stage)
    total = 3000
    for _ in range(total):
        staged.journal.output("stdout", "web", 1, 17, 3, "x" * 100)
    lines = staged.stdout()
    staged.journal.output("stdout", "web", 1, 17, 3, "flows again")
    staged.journal.close()
    lines += staged.stdout()
    [notice] = [line for line in lines if "dropped" in line]
    count = total + 1 - (len(lines) - 1)
    said = json.loads(notice)["message"] if stage == "as_json" else notice.partition("log")[2].strip()
    assert said == f"{count} lines dropped: the reader of stdout is too slow"
    assert "flows again" in lines[-1]


def test_the_last_thousand_events_are_remembered(text: Stage) -> None:
    for i in range(RECENT + 5):
        text.journal.event("log", str(i))
    assert [event.text for event in text.journal.recent()] == [str(i) for i in range(5, RECENT + 5)]


def test_who_has_unsubscribed_hears_nothing_more(text: Stage) -> None:
    heard: list[str] = []
    end_first = text.journal.subscribe(lambda event: heard.append(f"first {event.text}"))
    text.journal.subscribe(lambda event: heard.append(f"second {event.text}"))
    text.journal.event("log", "one")
    end_first()
    end_first()
    text.journal.event("log", "two")
    assert heard == ["first one", "second one", "second two"]


def test_a_listener_may_unsubscribe_while_it_listens(text: Stage) -> None:
    heard: list[str] = []

    def once(event: Event) -> None:
        heard.append(event.text)
        end()

    end = text.journal.subscribe(once)
    text.journal.subscribe(lambda event: heard.append(f"other {event.text}"))
    text.journal.event("log", "one")
    text.journal.event("log", "two")
    assert heard == ["one", "other one", "other two"]


def test_a_listener_that_raises_is_dropped_and_the_others_hear_on(text: Stage) -> None:
    heard: list[str] = []

    def broken(event: Event) -> None:
        raise RuntimeError("oh")

    text.journal.subscribe(broken)
    text.journal.subscribe(lambda event: heard.append(event.text))
    text.journal.event("log", "one")
    text.journal.event("log", "two")
    assert sorted(heard) == ["a listener to events failed and was dropped: RuntimeError('oh')", "one", "two"]
    assert [event.level for event in text.journal.recent()] == ["info", "warning", "info"]


def test_listeners_are_limited_and_room_is_made_by_leaving(text: Stage) -> None:
    ends = [text.journal.subscribe(lambda event: None) for _ in range(MAX_LISTENERS)]
    with pytest.raises(RefusedError, match="64 clients"):
        text.journal.subscribe(lambda event: None)
    ends[0]()
    text.journal.subscribe(lambda event: None)


def test_after_closing_events_are_still_remembered(text: Stage) -> None:
    text.journal.close()
    text.journal.event("log", "late")
    assert [event.text for event in text.journal.recent()] == ["late"]


def test_the_room_imports_nothing_heavy() -> None:
    script = (
        "import json, sys, supervisor.observe.journal, supervisor.observe.metrics, supervisor.observe.output; "
        "heavy = ['asyncio', 'logging', 'hashlib', 'psutil', 'prometheus_client', 'rich', 'click', 'subprocess']; "
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    assert in_python(script) == []
