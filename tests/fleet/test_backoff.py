"""The waits between attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.fleet.backoff import JITTER, LONGEST_DELAY, delay

CHANCE = st.floats(0, 1, exclude_max=True)


@given(CHANCE)
def test_the_first_replacement_is_not_delayed(chance: float) -> None:
    assert delay(0, chance) == delay(1, chance) == 0.0


def test_without_luck_either_way_the_delay_doubles() -> None:
    assert [delay(failures, 0.5) for failures in (2, 3, 4, 5)] == [0.25, 0.5, 1.0, 2.0]


@given(st.integers(2, 10_000), CHANCE)
def test_no_delay_is_longer_than_the_cap_and_its_jitter(failures: int, chance: float) -> None:
    assert 0 < delay(failures, chance) <= LONGEST_DELAY * (1 + JITTER)


@given(st.integers(2, 40))
def test_slots_that_die_together_come_back_apart(failures: int) -> None:
    assert delay(failures, 0.0) < delay(failures, 0.5) < delay(failures, 0.99)
