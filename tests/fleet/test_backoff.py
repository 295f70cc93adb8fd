"""The waits between attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.fleet.backoff import FORGIVES_ONE, JITTER, LONGEST_DELAY, STABLE_AFTER, count, delay

CHANCE = st.floats(0, 1, exclude_max=True)


@given(CHANCE)
def test_the_first_replacement_is_not_delayed(chance: float) -> None:
    assert delay(0, chance) == delay(1, chance) == 0.0


@given(st.integers(0, 1000), st.floats(0, FORGIVES_ONE, exclude_max=True))
def test_each_death_after_short_service_counts(failures: int, served: float) -> None:
    assert count(failures, served) == failures + 1


@given(st.integers(0, 1000), st.floats(STABLE_AFTER, 1e9))
def test_long_service_makes_up_for_all_earlier_deaths(failures: int, served: float) -> None:
    assert count(failures, served) == 1


def test_a_second_of_service_makes_up_for_one_death() -> None:
    assert count(1, FORGIVES_ONE) == 1
    assert count(5, FORGIVES_ONE) == 5
    assert count(5, 2.5 * FORGIVES_ONE) == 4


def test_without_luck_either_way_the_delay_doubles() -> None:
    assert [delay(failures, 0.5) for failures in (2, 3, 4, 5)] == [0.25, 0.5, 1.0, 2.0]


@given(st.integers(2, 10_000), CHANCE)
def test_no_delay_is_longer_than_the_cap_and_its_jitter(failures: int, chance: float) -> None:
    assert 0 < delay(failures, chance) <= LONGEST_DELAY * (1 + JITTER)


@given(st.integers(2, 40))
def test_slots_that_die_together_come_back_apart(failures: int) -> None:
    assert delay(failures, 0.0) < delay(failures, 0.5) < delay(failures, 0.99)
