from __future__ import annotations

import pytest

from supervisor.config.settings import MemoryShare
from supervisor.config.wear import parse_max_age, parse_max_memory


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512M", 512 * 2**20),
        (5_000_000, 5_000_000),
        ("80%", MemoryShare(0.8)),
        (" 12.5 % ", MemoryShare(0.125)),
        ("100%", MemoryShare(1.0)),
        (0, None),
        ("0", None),
    ],
)
def test_a_memory_limit_is_a_size_or_a_share_or_none(text: object, expected: object) -> None:
    assert parse_max_memory(text) == expected


@pytest.mark.parametrize("text", [512, "1023K"])
def test_a_memory_limit_below_a_mebibyte_was_meant_in_another_unit(text: object) -> None:
    with pytest.raises(ValueError, match=r"at least 1M.*not "):
        parse_max_memory(text)


@pytest.mark.parametrize("text", ["0%", "-5%", "101%", "%", "nan%", "a lot%"])
def test_a_share_is_above_nothing_and_at_most_everything(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a share above 0% and at most 100%, such as 80%, not "):
        parse_max_memory(text)


@pytest.mark.parametrize("text", ["12Q", "", 0.8, True, None, ["80%"]])
def test_what_is_neither_is_refused_with_an_example_of_each(text: object) -> None:
    with pytest.raises(ValueError, match=r"^a size such as 512M or 2G, or a share such as 80%, not "):
        parse_max_memory(text)


def test_an_age_of_zero_is_no_limit() -> None:
    assert parse_max_age("1h") == 3600.0
    assert parse_max_age(0) is None
