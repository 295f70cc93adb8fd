"""Verdicts on single samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.settings import MemoryShare
from supervisor.watch.limits import Limits, Sample, is_pressing, max_memory, of_worker, verdict

MB = 2**20


def test_a_worker_without_limits_may_always_stay() -> None:
    assert verdict(Limits(None, None), Sample(10**12, 10**9)) is None


def test_a_worker_past_its_memory_has_to_go_and_the_reason_names_both_figures() -> None:
    why = verdict(Limits(100 * MB, None), Sample(101 * MB, 0))
    assert why == "memory: 101 MB is past max_memory 100 MB"


def test_a_worker_at_its_memory_limit_may_stay() -> None:
    assert verdict(Limits(100 * MB, None), Sample(100 * MB, 0)) is None


def test_a_worker_that_has_served_its_share_has_to_go() -> None:
    assert verdict(Limits(None, 10), Sample(0, 10)) == "requests: 10 served, its limit was 10"
    assert verdict(Limits(None, 10), Sample(0, 9)) is None


def test_a_worker_that_is_old_enough_has_to_go() -> None:
    assert verdict(Limits(max_age=3600.0), Sample(0, 0, 3600.5)) == "age: 3600 s, its limit was 3600 s"
    assert verdict(Limits(max_age=3600.0), Sample(0, 0, 3599.0)) is None


def test_only_memory_presses() -> None:
    limits = Limits(100 * MB, 10, 10.0)
    assert is_pressing(limits, Sample(101 * MB, 0))
    assert not is_pressing(limits, Sample(99 * MB, 20, 20.0))


@pytest.mark.parametrize(
    ("setting", "workers", "expected"),
    [
        (None, 4, None),
        (512 * MB, 4, 512 * MB),
        (MemoryShare(0.8), 4, 200 * MB),
        (MemoryShare(1.0), 1, 1000 * MB),
        (MemoryShare(0.8), 8, 100 * MB),
        (MemoryShare(0.8), 0, 800 * MB),
    ],
)
def test_a_share_is_divided_by_the_workers(
    setting: int | MemoryShare | None, workers: int, expected: int | None
) -> None:
    assert max_memory(setting, 1000 * MB, workers) == expected


@given(st.integers(1, 10**9), st.floats(1, 10**9), st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2))
def test_jitter_keeps_the_limits_within_a_tenth_and_above_zero(
    requests: int, age: float, chances: tuple[float, float]
) -> None:
    found = of_worker(requests, age, chances)
    assert found.max_requests is not None
    assert found.max_age is not None
    assert max(1, requests * 0.9 - 1) <= found.max_requests <= requests * 1.1 + 1
    assert 0.89 * age <= found.max_age <= 1.11 * age


def test_no_limit_has_no_jitter() -> None:
    assert of_worker(None, None, (0.5, 0.5)) == Limits()
