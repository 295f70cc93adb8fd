"""The breaker on recorded and generated series of ticks: when it opens, for how long, and that it recovers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.watch.breaker import FIRST_PAUSE, HEALING, LONGEST_PAUSE, TRIAL, Breaker, Phase, pause, step

LIMIT = 0.25
TICK = 0.1


class Series:
    """A breaker, fed with ticks as a heartbeat gives them: each comes `TICK` after the last, and late by its lag."""

    def __init__(self, limit: float = LIMIT) -> None:
        self.breaker = Breaker(limit)
        self.now = 1000.0
        self.opened: list[float] = []
        self.closed: list[float] = []

    def tick(self, lag: float = 0.0) -> Phase:
        before = self.breaker.phase
        self.now += TICK + lag
        self.breaker = step(self.breaker, lag, self.now)
        if self.breaker.phase is not before:
            if self.breaker.phase is Phase.OPEN:
                self.opened.append(self.now)
            elif self.breaker.phase is Phase.CLOSED:
                self.closed.append(self.now)
        return self.breaker.phase

    def quiet(self, seconds: float) -> Phase:
        for _ in range(round(seconds / TICK)):
            self.tick()
        return self.breaker.phase

    def seconds_until(self, phase: Phase) -> float:
        began = self.now
        while self.tick() is not phase:
            assert self.now < began + 100
        return self.now - began


def test_lag_below_the_limit_never_opens_it() -> None:
    series = Series()
    assert {series.tick(LIMIT) for _ in range(1000)} == {Phase.CLOSED}


def test_one_late_tick_opens_it_at_once() -> None:
    series = Series()
    assert series.tick(LIMIT + 0.001) is Phase.OPEN
    assert series.breaker.worst == LIMIT + 0.001


def test_without_a_limit_it_bears_everything() -> None:
    assert Series(limit=0.0).tick(100.0) is Phase.CLOSED


def test_after_a_pause_and_a_trial_it_closes_by_itself() -> None:
    series = Series()
    series.tick(4.0)
    assert series.seconds_until(Phase.HALF_OPEN) == pytest.approx(FIRST_PAUSE, abs=1.1 * TICK)
    assert series.seconds_until(Phase.CLOSED) == pytest.approx(TRIAL, abs=1.1 * TICK)


def test_each_trip_doubles_the_pause_up_to_the_longest() -> None:
    series = Series()
    pauses = []
    for _ in range(12):
        series.tick(1.0)
        pauses.append(series.seconds_until(Phase.HALF_OPEN))
    for shorter, longer in itertools.pairwise(pauses[:6]):
        assert longer == pytest.approx(2 * shorter, abs=2.2 * TICK)
    assert pauses[5:] == pytest.approx([LONGEST_PAUSE] * 7, abs=1.1 * TICK)


def test_a_trial_that_fails_is_a_trip_more_and_tells_since_when() -> None:
    series = Series()
    series.tick(0.5)
    since = series.now
    series.seconds_until(Phase.HALF_OPEN)
    assert series.tick(0.3) is Phase.OPEN
    assert (series.breaker.trips, series.breaker.since, series.breaker.worst) == (2, since, 0.5)


def test_lateness_while_it_is_open_only_puts_the_trial_off() -> None:
    series = Series()
    for _ in range(50):
        assert series.tick(1.0) is Phase.OPEN
    assert series.breaker.trips == 1
    assert series.seconds_until(Phase.HALF_OPEN) == pytest.approx(FIRST_PAUSE, abs=1.1 * TICK)


def test_service_without_lateness_makes_up_for_trips() -> None:
    series = Series()
    for _ in range(4):
        series.tick(1.0)
        series.seconds_until(Phase.HALF_OPEN)
    series.seconds_until(Phase.CLOSED)
    assert series.breaker.trips == 4
    series.quiet(3 * HEALING + 1)
    assert series.breaker.trips == 1
    series.quiet(10 * HEALING)
    assert series.breaker.trips == 0


def test_a_worker_blocked_every_other_second_is_tried_less_and_less_often() -> None:
    """Recorded from an app that blocks for 0.4 s whenever it is asked: it is asked when the breaker is not open."""
    series = Series()
    for _ in range(600):
        series.tick(0.0 if series.breaker.phase is Phase.OPEN else 0.4)
    assert len([when for when in series.opened if when > series.now - 30]) <= 5


@given(st.lists(st.one_of(st.floats(0, 0.2), st.floats(0.3, 10)), max_size=200))
def test_whatever_comes_it_opens_only_for_lag_and_is_closed_soon_after(lags: list[float]) -> None:
    series = Series()
    for lag in lags:
        before = series.breaker
        phase = series.tick(lag)
        assert (phase is Phase.OPEN) >= (lag > LIMIT)
        assert phase is not Phase.OPEN or before.phase is Phase.OPEN or lag > LIMIT
        assert not (before.phase is Phase.OPEN and phase is Phase.CLOSED), "there is a trial in between"
        assert series.breaker.trips >= 0
        assert series.breaker.until <= series.now + max(LONGEST_PAUSE, HEALING)
    series.quiet(LONGEST_PAUSE + TRIAL + 3 * TICK)
    assert series.breaker.phase is Phase.CLOSED


def test_pauses_have_a_cap_however_many_trips() -> None:
    assert [pause(trips) for trips in (1, 2, 3)] == [0.25, 0.5, 1.0]
    assert pause(1000) == LONGEST_PAUSE
