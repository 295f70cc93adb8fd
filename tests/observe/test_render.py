from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.messages.events import Event
from supervisor.observe.render import OutputLine, escape, local_time, output_json, output_text, render_json, render_text

# Any code point at all, lone surrogates too: file names and an app's own text may hold them.
anything = st.text(st.characters(exclude_categories=()))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def event(**changed: Any) -> Event:
    told: dict[str, Any] = {"ts": 1795266185.1239, "name": "worker.ready", "text": "in 0.2 s"}
    return Event(**(told | changed))


@pytest.mark.usefixtures("in_berlin")
def test_a_line_tells_time_level_place_pid_event_and_text_in_columns() -> None:
    lines = [
        render_text(event(app="web", slot=2, pid=4711, generation=3)),
        render_text(event(app="web", name="app.degraded", text="2 of 4 workers are down", level="warning")),
        render_text(event(name="log", text="listening", level="error", pid=1)),
    ]
    assert lines == [
        "2026-11-21T14:03:05.123+01:00 info    web:2           4711 worker.ready     in 0.2 s",
        "2026-11-21T14:03:05.123+01:00 warning web                - app.degraded     2 of 4 workers are down",
        "2026-11-21T14:03:05.123+01:00 error   holdfast           1 log              listening",
    ]


@pytest.mark.usefixtures("in_berlin")
def test_times_are_local_with_their_offset_in_summer_and_winter() -> None:
    assert local_time(1795266185.0) == "2026-11-21T14:03:05.000+01:00"
    assert local_time(1783000000.9999) == "2026-07-02T15:46:40.999+02:00"
    assert local_time(0.0) == "1970-01-01T01:00:00.000+01:00"


def test_colours_change_nothing_but_colours() -> None:
    told = event(app="web", slot=2, pid=4711, level="error")
    coloured = render_text(told, colour=True)
    assert coloured != render_text(told)
    assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == render_text(told)


@given(text=anything, app=anything, name=anything)
def test_a_text_line_is_one_printable_line_whatever_it_is_about(text: str, app: str, name: str) -> None:
    line = render_text(event(text=text, app=app, name=name))
    assert len(line.splitlines()) == 1
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", line)
    line.encode("utf-8")


@given(anything)
def test_escaping_leaves_harmless_text_alone(text: str) -> None:
    if text.isprintable():
        assert escape(text) == text
    assert escape(escape(text)) == escape(text)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\nb\r\n", "a\\nb\\r\\n"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("\x85\u2028", "\\x85\\u2028"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("caf\udce9", "caf\\udce9"),
        ("Größe 日本 👩‍💻 a\u00a0b", "Größe 日本 👩‍💻 a\u00a0b"),
    ],
)
def test_line_breaks_controls_and_overrides_are_written_out(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_json_is_the_contracts_object() -> None:
    told = event(app="web", slot=2, pid=4711, generation=3, fields={"why": "max_memory", "seconds": 0.2})
    assert json.loads(render_json(told)) == {
        "ts": 1795266185.1239,
        "event": "worker.ready",
        "level": "info",
        "app": "web",
        "slot": 2,
        "pid": 4711,
        "generation": 3,
        "message": "in 0.2 s",
        "why": "max_memory",
        "seconds": 0.2,
    }


@given(
    text=anything, fields=st.dictionaries(anything.filter(lambda key: key not in {"event", "message", "ts"}), values)
)
def test_json_is_one_line_and_whole_whatever_it_carries(text: str, fields: dict[str, Any]) -> None:
    line = render_json(event(text=text, fields=fields))
    assert b"\n" not in line
    told = json.loads(line)
    assert told["event"] == "worker.ready"
    if text.isprintable():
        assert told["message"] == text


def test_what_json_has_no_form_for_becomes_its_text() -> None:
    told = json.loads(render_json(event(fields={"error": ValueError("oh"), "nan": float("nan")})))
    assert told["error"] == "oh"
    assert told["nan"] is None


def output(**changed: Any) -> OutputLine:
    told: dict[str, Any] = {
        "ts": 1.5,
        "app": "web",
        "slot": 2,
        "pid": 4711,
        "generation": 3,
        "stream": "stdout",
        "line": "hello",
    }
    return OutputLine(**(told | changed))


def test_output_is_prefixed_with_who_wrote_it_and_passes_as_it_is() -> None:
    assert output_text(output()) == "web:2 | hello"
    assert output_text(output(slot=None, line="\x1b[31mred\x1b[0m\ttab")) == "web | \x1b[31mred\x1b[0m\ttab"


def test_coloured_output_ends_the_colours_that_the_app_left_on() -> None:
    line = output_text(output(line="\x1b[31mred"), colour=True)
    assert line.endswith("\x1b[31mred\x1b[0m")
    assert re.sub("\x1b\\[[0-9;]*m", "", line) == "web:2 | red"


def test_output_as_json_has_its_place_in_fields() -> None:
    assert json.loads(output_json(output())) == {
        "event": "app.output",
        "ts": 1.5,
        "app": "web",
        "slot": 2,
        "pid": 4711,
        "generation": 3,
        "stream": "stdout",
        "line": "hello",
    }
    assert "slot" not in json.loads(output_json(output(slot=None)))
