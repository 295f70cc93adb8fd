"""The budget of kills: never more than the limit in a minute, a pause once it is used up, and a recovery that lasts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.watch.budget import QUIET, SPAN, Budget, spend, step

LIMIT = 5


def asked(times: list[float], limit: int = LIMIT, budget: Budget | None = None) -> tuple[Budget, list[bool]]:
    """What comes of a kill asked for at each of these times."""
    budget = budget or Budget()
    answers = []
    for now in times:
        budget, granted = spend(budget, limit, now)
        answers.append(granted)
    return budget, answers


def test_as_many_kills_as_the_limit_are_granted_and_the_next_one_degrades_the_app() -> None:
    budget, answers = asked([float(second) for second in range(LIMIT)])
    assert answers == [True] * LIMIT
    assert not budget.is_degraded
    budget, granted = spend(budget, LIMIT, 10.0)
    assert not granted
    assert budget.is_degraded


def test_kills_far_enough_apart_are_never_refused() -> None:
    budget, answers = asked([number * (SPAN / LIMIT + 0.01) for number in range(1000)])
    assert all(answers)
    assert not budget.is_degraded


def test_with_a_limit_of_zero_nobody_is_ever_killed() -> None:
    budget, answers = asked([0.0, 100.0, 1000.0], limit=0)
    assert answers == [False] * 3
    assert budget.is_degraded
    assert not step(budget, 0, 1000.0 + QUIET).is_degraded


def test_who_has_used_it_up_is_granted_nothing_until_half_of_it_is_back() -> None:
    spread = [0.0, 10.0, 20.0, 30.0, 40.0]
    budget, _ = asked(spread)
    seconds = [41.0 + number for number in range(60)]
    _, answers = asked(seconds, budget=budget)
    first = seconds[answers.index(True)]
    assert first == spread[2] + SPAN  # the first two alone make less than half


def test_a_refusal_that_goes_on_keeps_the_app_degraded_and_quiet_ends_it() -> None:
    budget, _ = asked([0.0] * (LIMIT + 1))
    assert step(budget, LIMIT, SPAN - 0.1).is_degraded
    assert not step(budget, LIMIT, SPAN).is_degraded
    late, granted = spend(budget, LIMIT, SPAN - 1.0)
    assert not granted
    assert step(late, LIMIT, SPAN + 1.0).is_degraded, "the last refusal is too recent"
    assert not step(late, LIMIT, SPAN - 1.0 + QUIET).is_degraded


def test_one_stalled_for_good_is_killed_as_soon_as_the_pause_is_over() -> None:
    budget, _ = asked([0.0] * LIMIT)
    budget, answers = asked([float(second) for second in range(1, 120)], budget=budget)
    assert answers.index(True) == SPAN - 1
    _, answers = asked([120.0 + second for second in range(240)], budget=budget)
    assert sum(answers) <= 4 * LIMIT


def test_a_lower_limit_holds_at_once() -> None:
    budget, _ = asked([0.0, 1.0])
    assert not asked([2.0], limit=2, budget=budget)[1][0]
    assert asked([2.0], limit=3, budget=budget)[1][0]


times = st.lists(st.floats(0.0, 400.0), max_size=80).map(sorted)


@given(times, st.integers(0, 8))
def test_no_minute_has_more_kills_than_the_limit(when: list[float], limit: int) -> None:
    _, answers = asked(when, limit)
    granted = [now for now, answer in zip(when, answers, strict=True) if answer]
    for first in granted:
        assert sum(0 <= now - first < SPAN for now in granted) <= limit


@given(times, st.integers(0, 8))
def test_left_in_peace_every_budget_recovers_whole(when: list[float], limit: int) -> None:
    budget, _ = asked(when, limit)
    assert step(budget, limit, 400.0 + SPAN + QUIET) == Budget()


@given(times, st.floats(0.0, 60.0))
def test_looking_twice_is_looking_once(when: list[float], pause: float) -> None:
    budget, _ = asked(when)
    once = step(budget, LIMIT, 400.0 + pause)
    assert step(once, LIMIT, 400.0 + pause) == once
