"""How many workers: a number, auto, or a range."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.load import Source, load
from supervisor.config.settings import AppSettings, Span
from supervisor.config.workers import parse_workers


@pytest.mark.parametrize(
    ("text", "workers"),
    [
        *[("auto", None), (1, 1), ("16", 16), (1024, 1024)],
        *[("2..8", Span(2, 8)), ("1..1024", Span(1, 1024)), ("4..4", 4)],
    ],
)
def test_workers_are_auto_or_a_number_or_a_range(text: object, workers: int | Span | None) -> None:
    assert parse_workers(text) == workers


@pytest.mark.parametrize(
    "text",
    [
        *[0, -1, 1025, "many", "AUTO", 2.0, True, None, "9" * 5000],
        *["8..2", "0..4", "2..1025", "2..", "..8", "2...8", "2..8..9", "2-8", "-2..8", " 2..8", "2.5..8", "٢..٨", []],
    ],
)
def test_wrong_workers_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"auto, 1 to 1024, or a range such as 2\.\.8, not "):
        parse_workers(text)


@given(st.integers(1, 1024), st.integers(1, 1024))
def test_a_range_has_its_ends_in_order_and_apart(first: int, last: int) -> None:
    if first > last:
        with pytest.raises(ValueError, match="a range"):
            parse_workers(f"{first}..{last}")
    else:
        assert parse_workers(f"{first}..{last}") == (first if first == last else Span(first, last))


def test_a_range_comes_from_the_file_or_the_flag_and_travels_whole() -> None:
    from_file = load(Source(path="a.toml"), '[app.web]\napp = "a:b"\nworkers = "2..8"\n').apps[0]
    from_flag = load(Source(app="a:b", flags={"workers": "2..8"}), None).apps[0]
    assert from_file.workers == from_flag.workers == Span(2, 8)
    packed = msgspec.msgpack.encode(from_flag)
    assert msgspec.msgpack.decode(packed, type=AppSettings) == from_flag
