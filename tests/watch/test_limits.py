"""Verdicts on single samples."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.watch.limits import Limits, Sample, jittered, verdict

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


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_jitter_keeps_the_limit_within_a_tenth_and_above_zero(limit: int, chance: float) -> None:
    found = jittered(limit, chance)
    assert found is not None
    assert max(1, limit * 0.9 - 1) <= found <= limit * 1.1 + 1


def test_no_limit_has_no_jitter() -> None:
    assert jittered(None, 0.5) is None
