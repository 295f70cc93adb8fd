"""Scaling over generated series: it follows what lasts, sleeps through what doesn't, and never leaves its range."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.watch.scale import Decision, Look, Pace, Pulse, Scaling, step, taken

PACE = Pace(grow_after=5.0, shrink_after=60.0)
ROOM = 100  # requests that a worker of these tests has room for
LEAST, MOST = 2, 8

Offered = Callable[[float], float]
"""Work that there is at a time, in workers."""


def crowded(slot: int, part: float) -> Pulse:
    """A worker of which this part is taken, by requests in flight."""
    return Pulse(slot, round(ROOM * part), ROOM, lag=0.001, cpu=0.1, rate=50.0)


def look(part: float, count: int = 4, *, least: int = LEAST, most: int = MOST, is_settled: bool = True) -> Look:
    return Look(tuple(crowded(slot, part) for slot in range(1, count + 1)), count, least, most, is_settled)


def run(offered: Offered, seconds: int, count: int = LEAST, pace: Pace = PACE) -> list[tuple[int, Decision]]:
    """All decisions of a cluster that is offered this, with when they were made; each comes true within a second."""
    scaling, decisions = Scaling(), []
    for now in range(seconds):
        scaling, decision = step(scaling, look(min(1.0, offered(now) / count), count), pace, float(now))
        if decision is not None:
            assert abs(decision.count - count) == 1, "one at a time"
            assert LEAST <= decision.count <= MOST
            decisions.append((now, decision))
            count = decision.count
    return decisions


def counts(decisions: list[tuple[int, Decision]]) -> list[int]:
    return [decision.count for _, decision in decisions]


def constant(work: float) -> Offered:
    return lambda _now: work


@pytest.mark.parametrize(("work", "end"), [(0.5, 2), (1.4, 2), (2.0, 3), (3.5, 5), (5.9, 8), (20.0, 8)])
def test_a_steady_load_ends_at_a_steady_count_that_has_room_to_spare(work: float, end: int) -> None:
    decisions = run(constant(work), 3600)
    assert counts(decisions) == list(range(LEAST + 1, end + 1))
    assert work / end < 0.75 or end == MOST


def test_growing_takes_its_time_for_each_worker() -> None:
    times = [when for when, _ in run(constant(20.0), 600)]
    assert times[0] == PACE.grow_after
    assert all(later - earlier >= PACE.grow_after for earlier, later in pairwise(times))


def test_bursts_shorter_than_its_patience_are_slept_through() -> None:
    assert run(lambda now: 8.0 if now % 20 < 3 else 0.3, 3600) == []


@pytest.mark.parametrize("period", [4, 10, 30, 60, 100])
def test_a_sawtooth_does_not_flap(period: int) -> None:
    found = counts(run(lambda now: 6.0 * (now % period) / period, 4 * 3600))
    assert found == sorted(found), "it only grows, to what the peaks need"


def test_a_swing_slow_enough_to_be_followed_is_followed_less_and_less() -> None:
    def swing(now: float) -> float:
        return 5.0 if now % 200 < 90 else 0.2

    hours = [counts(run(swing, hour * 3600)) for hour in (1, 2, 4)]
    shrinks = [sum(after < before for before, after in pairwise([LEAST, *found])) for found in hours]
    assert shrinks[0] <= 4
    assert shrinks[2] - shrinks[1] <= 2


def test_a_slow_ramp_is_followed_up_and_down_without_a_step_back() -> None:
    found = run(lambda now: 6.0 * (1 - abs(now - 3600) / 3600), 7200)
    up = [decision.count for when, decision in found if when <= 3700]
    down = [decision.count for when, decision in found if when > 3700]
    assert up == list(range(LEAST + 1, MOST + 1))
    assert down == list(range(MOST - 1, LEAST - 1, -1))


def test_an_idle_night_shrinks_to_the_least_one_by_one() -> None:
    found = run(constant(0.0), 8 * 3600, count=MOST)
    assert counts(found) == list(range(MOST - 1, LEAST - 1, -1))
    times = [when for when, _ in found]
    assert all(later - earlier >= PACE.shrink_after for earlier, later in pairwise(times))


def test_a_shrinking_that_had_to_be_undone_takes_twice_as_long_the_next_time_and_one_that_lasts_half() -> None:
    scaling, count, now, pauses = Scaling(), 4, 0.0, []
    for _ in range(3):
        since = now
        while count == 4:
            now += 1
            scaling, decision = step(scaling, look(0.1, count), PACE, now)
            count = decision.count if decision else count
        pauses.append(now - since)
        while count == 3:
            now += 1
            scaling, decision = step(scaling, look(1.0, count), PACE, now)
            count = decision.count if decision else count
    assert [round(pause, -1) for pause in pauses] == [60, 120, 240]
    assert scaling.patience == 8
    for _ in range(20_000):
        now += 1
        scaling, decision = step(scaling, look(0.1, count), PACE, now)
        count = decision.count if decision else count
    assert (count, scaling.patience) == (LEAST, 4)


def test_nothing_is_decided_while_anything_is_in_motion_and_then_all_is_looked_at_anew() -> None:
    scaling = Scaling()
    for now in range(100):
        scaling, decision = step(scaling, look(1.0, is_settled=False), PACE, float(now))
        assert decision is None
    decided = None
    for now in range(100, 120):
        scaling, decision = step(scaling, look(1.0), PACE, float(now))
        if decision is not None:
            decided = now
            break
    assert decided == 105


def test_a_count_outside_the_range_goes_to_its_nearest_end_at_once() -> None:
    assert step(Scaling(), look(0.5, 12), PACE, 0.0)[1] == Decision(8, "12 is outside 2..8")
    assert step(Scaling(), look(0.5, 1), PACE, 0.0)[1] == Decision(2, "1 is outside 2..8")


def test_the_reason_names_what_was_busy_and_what_was_idle() -> None:
    busy = run(constant(20.0), 10)[0][1].why
    assert busy == "busy for 5 s: 100% taken; 200 of 200 requests in flight, loops up to 1 ms late, CPU 10%"
    assert run(constant(0.4), 100, count=4)[0][1].why == "idle for 60 s: 10% taken, 13% without one of them"


def pulse(
    inflight: int = 0, lag: float = 0.0, cpu: float = 0.0, rate: float = 0.0, *, saturated: bool = False
) -> Pulse:
    return Pulse(1, inflight, 8, lag, cpu, rate, saturated)


def test_what_is_taken_is_the_most_of_requests_lag_and_cpu_used_for_requests() -> None:
    assert taken(pulse()) == 0.0
    assert taken(pulse(inflight=6)) == 0.75
    assert taken(pulse(inflight=60)) == 1.0
    assert taken(pulse(lag=0.025)) == 0.5
    assert taken(pulse(lag=3.0)) == 1.0
    assert taken(pulse(inflight=1, cpu=0.9)) == 0.9
    assert taken(pulse(rate=500.0, cpu=0.9)) == 0.9
    assert taken(pulse(saturated=True)) == 1.0


def test_cpu_alone_is_no_reason() -> None:
    assert taken(pulse(cpu=1.0, rate=1.0)) == 0.0


def test_one_blocked_worker_among_others_that_have_room_is_no_reason() -> None:
    scaling = Scaling()
    blocked = Pulse(1, 1, ROOM, lag=10.0, cpu=0.0, rate=0.0)
    for now in range(600):
        pulses = (blocked, *(crowded(slot, 0.6) for slot in (2, 3, 4)))
        scaling, decision = step(scaling, Look(pulses, 4, 2, 8, is_settled=True), PACE, float(now))
        assert decision is None


def test_who_is_stopped_by_hand_helps_nobody() -> None:
    scaling, count = Scaling(), 4
    for now in range(600):
        pulses = tuple(crowded(slot, 0.3) for slot in (1, 2))  # of four; with one less there is one
        scaling, decision = step(scaling, Look(pulses, count, 2, 8, is_settled=True), PACE, float(now))
        assert decision is None


def test_a_lone_worker_is_no_less_than_one() -> None:
    scaling = Scaling()
    for now in range(600):
        scaling, decision = step(scaling, look(0.0, 1, least=1), PACE, float(now))
        assert decision is None


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 6), st.floats(0.2, 5.0))
def test_whatever_comes_it_stays_in_its_range_and_changes_by_one(
    seed: int, least: int, more: int, every: float
) -> None:
    scaling, count, most, now = Scaling(), least, least + more, 0.0
    level, chance = 0.0, random.Random(seed)
    for _ in range(600):
        now += every
        level = chance.choice([level, level, level, chance.random() * 2 * most])
        settled = chance.random() > 0.1
        part = min(1.0, level / count)
        seen = look(part, count, least=least, most=most, is_settled=settled)
        scaling, decision = step(scaling, seen, PACE, now)
        assert 0.0 <= scaling.load <= 1.0
        assert math.log2(scaling.patience) % 1 == 0
        if decision is not None:
            assert settled
            assert abs(decision.count - count) == 1
            count = decision.count
        assert least <= count <= most
