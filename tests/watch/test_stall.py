"""Verdicts on heartbeats, over generated series."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.watch.stall import (
    BEAT,
    CALM,
    LONGEST_EPISODE,
    Began,
    Ended,
    Limits,
    Sample,
    TimedOut,
    Verdict,
    Watched,
    is_calm,
    step,
)

LIMITS = Limits(warn=0.5, timeout=30.0)
Told = list[tuple[float, Verdict]]
Span = tuple[float, float]


def beats(blocks: Sequence[Span], end: float) -> list[float]:
    """When the loop of a worker turns that is blocked during `blocks`."""
    found, at = [], 0.0
    while at < end:
        found.append(at)
        at += BEAT
        at = next((stop for start, stop in blocks if start < at <= stop), at)
    return found


def watch(
    blocks: Sequence[Span],
    end: float,
    looks: Iterable[float] | None = None,
    *,
    limits: Limits = LIMITS,
    asleep: Span | None = None,
) -> tuple[Told, Watched]:
    """What is told when one looks at `looks` (or as often as is due); master and worker both rest while `asleep`."""
    turned = beats(blocks if asleep is None else [*blocks, asleep], end)
    if looks is None:
        every = limits.look_every
        looks = [number * every for number in range(int(end / every))]
    watched, looked, told = Watched(), 0.0, []
    for now in looks:
        if asleep is not None and asleep[0] <= now < asleep[1]:
            continue
        sample = Sample(turned[bisect.bisect_right(turned, now) - 1])
        if not is_calm(watched, sample, limits, now, now - looked):
            watched, verdicts = step(watched, sample, limits, now, now - looked)
            told += [(now, verdict) for verdict in verdicts]
        looked = now
    return told, watched


def kinds(told: Told) -> list[type[Verdict]]:
    return [type(verdict) for _, verdict in told]


def test_a_loop_that_turns_is_never_told() -> None:
    assert watch([], 100.0)[0] == []


def test_a_block_is_told_once_while_it_lasts_and_its_end_once() -> None:
    told, watched = watch([(5.0, 8.0)], 12.0)
    (began, first), (ended, last) = told
    assert isinstance(first, Began)
    assert 5.5 <= began <= 5.9
    assert first.seconds >= 0.5
    assert isinstance(last, Ended)
    assert last.times == 1
    assert last.seconds == last.longest == pytest.approx(3.0, abs=0.2)
    assert 8.0 + CALM <= ended <= 8.0 + CALM + 0.4
    assert not watched.is_blocked


def test_a_block_shorter_than_the_limit_is_not_told() -> None:
    assert watch([(number, number + 0.4) for number in range(1, 20)], 30.0)[0] == []


def test_blocks_close_to_each_other_are_one_episode() -> None:
    told, _ = watch([(5.0, 5.8), (6.2, 7.0), (7.5, 9.5)], 15.0)
    assert kinds(told) == [Began, Ended]
    ended = told[-1][1]
    assert isinstance(ended, Ended)
    assert ended.times == 3
    assert ended.seconds == pytest.approx(3.6, abs=0.6)
    assert ended.longest == pytest.approx(2.0, abs=0.2)


def test_short_blocks_keep_an_episode_open_that_they_would_not_begin() -> None:
    told, _ = watch([(5.0, 6.0), *((at / 2, at / 2 + 0.45) for at in range(13, 30))], 20.0)
    assert kinds(told) == [Began, Ended]
    assert told[-1][0] > 15.0


def test_a_worker_that_blocks_again_and_again_is_told_about_each_minute() -> None:
    told, _ = watch([(at, at + 0.9) for at in range(1, 200)], 200.0)
    times = [now for now, verdict in told if isinstance(verdict, Began)]
    assert 3 <= len(times) <= 4
    assert all(later - earlier >= LONGEST_EPISODE for earlier, later in itertools.pairwise(times))


def test_past_its_timeout_it_is_told_each_second_until_it_ends() -> None:
    told, _ = watch([(5.0, 40.0)], 45.0)
    late = [(now, verdict) for now, verdict in told if isinstance(verdict, TimedOut)]
    assert 35.0 <= late[0][0] <= 35.5
    assert 4 <= len(late) <= 6
    assert late[0][1].seconds >= 30.0
    assert late[0][1].is_loop
    assert kinds(told)[0] is Began
    assert kinds(told)[-1] is Ended


@pytest.mark.parametrize("limits", [Limits(0.5, math.inf), Limits(math.inf, math.inf)])
def test_what_is_switched_off_is_not_told(limits: Limits) -> None:
    told, _ = watch([(5.0, 100.0)], 110.0, limits=limits)
    assert kinds(told) == ([Began, Ended] if limits.warn < math.inf else [])


def test_without_warnings_a_worker_still_times_out() -> None:
    told, _ = watch([(5.0, 20.0)], 30.0, limits=Limits(math.inf, 10.0))
    assert set(kinds(told)) == {TimedOut}


@given(start=st.floats(1.0, 5.0), length=st.floats(0.5, 100.0))
def test_a_master_suspended_with_its_workers_blames_nobody(start: float, length: float) -> None:
    told, _ = watch([], start + length + 5.0, asleep=(start, start + length))
    assert told == []


@given(length=st.floats(1.0, 100.0))
def test_a_master_that_slept_alone_still_sees_a_block_that_goes_on(length: float) -> None:
    end = 5.0 + length + 5.0
    awake = [at / 8 for at in range(int(end * 8)) if not 4.0 <= at / 8 < 4.0 + length]
    told, _ = watch([(3.9, end)], end, awake)
    assert Began in kinds(told)
    first = next(now for now, verdict in told if isinstance(verdict, Began))
    assert first >= min(4.4, 4.0 + length)


@given(
    lengths=st.lists(st.tuples(st.floats(0.05, 5.0), st.floats(0.0, 5.0)), max_size=12),
    gaps=st.lists(st.floats(0.01, 2.0), min_size=1, max_size=20),
)
def test_episodes_begin_and_end_in_turn_and_nothing_is_told_of_less_than_was(
    lengths: list[tuple[float, float]], gaps: list[float]
) -> None:
    blocks, at = [], 1.0
    for free, blocked in lengths:
        blocks.append((at + free, at + free + blocked))
        at += free + blocked
    now = 0.0
    looks: list[float] = []
    while now < at + 10.0:
        now += gaps[len(looks) % len(gaps)]
        looks.append(now)
    told, _ = watch(blocks, at + 15.0, looks)
    episodes = [kind for kind in kinds(told) if kind is not TimedOut]
    assert episodes[::2] == [Began] * len(episodes[::2])
    assert episodes[1::2] == [Ended] * len(episodes[1::2])
    longest = max((stop - start for start, stop in blocks), default=0.0)
    for _, verdict in told:
        if isinstance(verdict, Began):
            assert 0.5 <= verdict.seconds <= longest + 0.01
        elif isinstance(verdict, Ended):
            assert verdict.longest <= verdict.seconds + 0.01
            assert verdict.longest <= longest + 2 * BEAT + 0.01


@given(st.floats(1.0, 60.0))
def test_no_block_past_the_limit_goes_unnoticed(length: float) -> None:
    told, _ = watch([(2.0, 2.0 + length)], 70.0)
    assert kinds([it for it in told if not isinstance(it[1], TimedOut)]) == [Began, Ended]


def test_a_worker_that_has_stopped_its_heart_is_not_blocked() -> None:
    watched, told = Watched(), []
    for number in range(400):
        watched, verdicts = step(watched, Sample(0.0), LIMITS, number / 8, 0.125)
        told += verdicts
    assert told == []


def test_threads_that_are_all_stuck_time_out_and_begin_no_episode() -> None:
    watched, told = Watched(), []
    for number in range(400):
        now = number / 8
        since = 4.0 if now >= 5.0 else 0.0
        watched, verdicts = step(watched, Sample(now - now % BEAT or 0.1, since), LIMITS, now, 0.125)
        told += [(now, verdict) for verdict in verdicts]
    assert set(kinds(told)) == {TimedOut}
    at, first = told[0]
    assert 34.0 <= at <= 34.2
    assert isinstance(first, TimedOut)
    assert not first.is_loop


def test_looks_are_as_frequent_as_the_limits_ask_for_within_bounds() -> None:
    assert Limits(0.5, 30.0).look_every == 0.125
    assert Limits(0.001, 30.0).look_every == 0.02
    assert Limits(math.inf, math.inf).look_every == 1.0
    assert Limits(60.0, 2.0).look_every == 0.5
