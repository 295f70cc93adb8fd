"""Series of RSS, a sample a second: recorded ones of real workers (`series/`), and generated ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.watch.leak import POINTS, SCALES, WARM_UP, Climb, Trend, step, theil_sen

MB = 2**20
HOUR = 3600
PLENTY = 24 * 1024 * MB


def told(series: Iterable[int], limit: int = PLENTY, age: float = WARM_UP) -> list[tuple[int, Climb]]:
    """Every verdict, with the second in which it was given."""
    trend, verdicts = Trend(), []
    for second, rss in enumerate(series):
        trend, climb = step(trend, rss, age + second, limit, 1000.0 + second)
        if climb is not None:
            verdicts.append((second, climb))
    return verdicts


def recorded(name: str) -> Iterator[int]:
    """Lines of `KIB*SECONDS`."""
    for line in (Path(__file__).parent / "series" / name).read_text().splitlines():
        kib, _, seconds = line.partition("*")
        for _ in range(int(seconds)):
            yield int(kib) * 1024


def made(megabytes: Callable[[int], float], seconds: int, noise: float = 0.5, seed: int = 1) -> Iterator[int]:
    """What `megabytes` says for each second, and what requests hold for a moment: never less than nothing."""
    random = Random(seed)
    return (int((megabytes(second) + abs(random.gauss(0, noise))) * MB) for second in range(seconds))


@pytest.mark.parametrize("name", ["plain", "sawtooth", "warm_up"])
@pytest.mark.parametrize("limit", [100 * MB, 200 * MB, 512 * MB, PLENTY])
def test_recorded_workers_that_do_not_leak_are_not_told(name: str, limit: int) -> None:
    assert told(recorded(name), limit) == []


def test_a_recorded_leak_is_told_once_long_before_its_limit() -> None:
    ((_second, climb),) = told(recorded("leak"), 256 * MB)
    assert 120 < climb.mb_per_hour < 160
    assert climb.seconds_to_limit > HOUR


@pytest.mark.parametrize("noise", [0.0, 1.0, 10.0])
def test_a_flat_series_is_no_leak_however_noisy(noise: float) -> None:
    assert told(made(lambda _: 100, 4 * HOUR, noise), 512 * MB) == []


@pytest.mark.parametrize("limit", [256 * MB, PLENTY])
def test_a_slow_leak_of_20_mb_an_hour_is_told_within_70_minutes(limit: int) -> None:
    ((second, climb),) = told(made(lambda at: 100 + 20 * at / HOUR, 6 * HOUR), limit)
    assert second < 70 * 60
    assert climb.mb_per_hour == pytest.approx(20, rel=0.1)
    assert climb.seconds_to_limit > 6 * HOUR


@pytest.mark.parametrize(("per_second", "limit", "left"), [(0.5, 1024, 600), (1.0, 1024, 540), (10.0, 4096, 200)])
def test_a_fast_leak_is_told_while_there_is_time(per_second: float, limit: int, left: float) -> None:
    full = int((limit - 100) / per_second)
    ((second, climb),) = told(made(lambda at: 100 + per_second * at, full), limit * MB)
    assert full - second >= left
    assert climb.seconds_to_limit == pytest.approx(full - second, rel=0.1)


@pytest.mark.parametrize("seconds", [20, 100, 300, 1800])
def test_a_warm_up_that_levels_off_below_the_limit_is_no_leak(seconds: float) -> None:
    assert told(made(lambda at: 50 + 100 * (1 - math.exp(-at / seconds)), 4 * HOUR), 256 * MB) == []


@pytest.mark.parametrize("period", [20, 60, 100, 300])
def test_a_sawtooth_is_no_leak(period: int) -> None:
    assert told(made(lambda at: 100 + 100 * (at % period) / period, 6 * HOUR), 512 * MB) == []


@pytest.mark.parametrize("period", [1200, HOUR, 2 * HOUR])
def test_of_a_sawtooth_as_long_as_a_window_the_first_tooth_is_told_at_most(period: int) -> None:
    verdicts = told(made(lambda at: 100 + 100 * (at % period) / period, 12 * HOUR), 512 * MB)
    assert len(verdicts) <= 1
    assert all(second < period for second, _climb in verdicts)


def test_a_step_is_no_leak() -> None:
    assert told(made(lambda at: 100 + 50 * (at > 3000), 4 * HOUR), 256 * MB) == []


def test_a_staircase_that_ends_is_no_leak() -> None:
    assert told(made(lambda at: 100 + 10 * min(2, at // 1200), 6 * HOUR)) == []


@pytest.mark.parametrize("period", [60, 300, 1200])
def test_a_staircase_without_an_end_is_a_leak(period: int) -> None:
    ((_second, climb),) = told(made(lambda at: 100 + 10 * (at // period), 6 * HOUR))
    assert climb.mb_per_hour == pytest.approx(10 * HOUR / period, rel=0.15)


def test_the_first_minute_of_a_worker_is_not_looked_at() -> None:
    series = list(made(lambda at: 20 + 10 * at if at < 60 else 620, HOUR))
    assert told(series, 700 * MB, age=0.0) == []


def test_a_leak_that_goes_on_is_told_once() -> None:
    assert len(told(made(lambda at: 100 + 60 * at / HOUR, 24 * HOUR), 2000 * MB)) == 1


def test_a_leak_that_gets_much_worse_is_told_once_again() -> None:
    def grows(at: int) -> float:
        return 100 + 20 * at / HOUR + max(0, at - 4 * HOUR) * 200 / HOUR

    first, again = told(made(grows, 12 * HOUR), 8192 * MB)
    assert first[0] < 4 * HOUR < again[0]
    assert again[1].mb_per_hour > 3 * first[1].mb_per_hour


def test_a_leak_that_begins_anew_after_it_had_ended_is_another_one() -> None:
    def grows(at: int) -> float:
        return 100 + 40 * min(at, 3 * HOUR) / HOUR + 40 * max(0, at - 10 * HOUR) / HOUR

    (first, _), (second, _) = told(made(grows, 16 * HOUR))
    assert first < 3 * HOUR
    assert second > 10 * HOUR


def test_a_worker_that_was_not_looked_at_for_long_is_looked_at_from_the_start() -> None:
    trend = Trend()
    for second in range(900):
        trend, _climb = step(trend, 100 * MB + second, WARM_UP + second, PLENTY, 1000.0 + second)
    trend, climb = step(trend, 900 * MB, 9000.0, PLENTY, 9000.0)
    assert climb is None
    assert all(window.points == () for window in trend.windows)


def test_the_slope_is_that_of_most_points_whatever_the_others_are() -> None:
    points = [1000 * number for number in range(POINTS)]
    for number in (3, 11, 12, 20, 25, 29):
        points[number] = 10**9
    assert theil_sen(tuple(points)) == pytest.approx(1000, rel=0.1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=400), st.integers(2**20, 2**40))
def test_whatever_is_seen_little_is_remembered_and_a_verdict_makes_sense(series: list[int], limit: int) -> None:
    trend = Trend()
    for number, rss in enumerate(series):
        trend, climb = step(trend, rss, WARM_UP, limit, 4.0 * number)
        assert all(len(window.points) <= POINTS for window in trend.windows)
        if climb is not None:
            assert climb.bytes_per_second > 0
            assert climb.seconds_to_limit >= 0
            assert trend.told == climb.bytes_per_second


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0, 20))
def test_memory_that_never_exceeds_what_it_began_with_is_never_a_leak(seed: int, noise: float) -> None:
    random = Random(seed)
    series = [int((200 - random.expovariate(1) * noise) * MB) for _ in range(3000)]
    assert told([200 * MB] * 200 + series, 256 * MB) == []


@settings(deadline=None, max_examples=20)
@given(st.floats(30, 20_000), st.floats(0, 2), st.integers(0, 1000))
def test_a_steady_leak_is_found_before_half_the_time_is_over_or_ten_minutes_before(
    per_hour: float, noise: float, seed: int
) -> None:
    full = min(12 * HOUR, int(3000 / per_hour * HOUR))
    if full < 400:
        return
    verdicts = told(made(lambda at: 100 + per_hour * at / HOUR, full, noise, seed), int(3100 * MB))
    assert len(verdicts) == 1
    assert verdicts[0][0] < max(0.5 * full, full - 500, SCALES[0].seconds * 2)
