"""CoDel for requests, on generated series: whom it turns away and how often, and what that does for the others."""

from __future__ import annotations

import heapq
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.watch.codel import INTERVAL, MOST_OFTEN, OVERLOADED, TARGET, Queue, step

TIMEOUT = 1.0
LOOK = 0.02


def turned_away(state: Queue, wait: float, seconds: float, start: float = 100.0) -> tuple[Queue, list[float]]:
    """When requests are turned away from a queue whose oldest has always waited for `wait`."""
    when: list[float] = []
    for number in range(round(seconds / LOOK)):
        now = start + number * LOOK
        is_over = True
        while is_over and len(when) < 100_000:
            state, is_over = step(state, wait, now)
            if is_over:
                when.append(now)
            if is_over and wait >= OVERLOADED * TIMEOUT:
                break
    return state, when


def test_a_wait_below_the_target_is_borne_for_ever() -> None:
    state, when = turned_away(Queue(TIMEOUT), TARGET * TIMEOUT - 0.01, 60.0)
    assert when == []
    assert not state.is_overloaded


def test_a_burst_that_is_over_within_the_interval_costs_nobody_his_turn() -> None:
    state, when = turned_away(Queue(TIMEOUT), 0.6, INTERVAL - LOOK)
    state, is_over = step(state, 0.0, 100.0 + INTERVAL)
    assert (when, is_over, state.is_overloaded) == ([], False, False)


def test_a_queue_that_stands_turns_away_one_at_a_time_and_more_often_the_longer_it_lasts() -> None:
    state, when = turned_away(Queue(TIMEOUT), 0.6, 10.0)
    assert state.is_overloaded
    assert when[0] == pytest.approx(100.0 + INTERVAL, abs=1.1 * LOOK)
    rates = [len([each for each in when if second <= each < second + 1]) for second in range(100, 110)]
    assert rates[0] < 60
    assert rates == sorted(rates)
    assert rates[-1] <= MOST_OFTEN * 1.05


def test_who_has_waited_for_the_whole_timeout_is_turned_away_at_once() -> None:
    assert step(Queue(TIMEOUT), TIMEOUT, 100.0)[1]


def test_in_an_overload_nobody_waits_for_nearly_that_long_in_vain() -> None:
    state, _when = turned_away(Queue(TIMEOUT), 0.6, 1.0)
    for _ in range(100):
        state, is_over = step(state, OVERLOADED * TIMEOUT, 101.0)
        assert is_over


def test_an_overload_that_comes_back_soon_goes_on_where_it_was() -> None:
    state, when = turned_away(Queue(TIMEOUT), 0.6, 5.0)
    state, _ = step(state, 0.0, 105.0)
    again, _when = turned_away(state, 0.6, 2 * INTERVAL, start=105.1)
    assert again.count > len(when) - 5
    later, _when = turned_away(state, 0.6, 2 * INTERVAL, start=125.0)
    assert later.count < 10


def test_without_a_timeout_any_wait_is_borne() -> None:
    assert turned_away(Queue(0.0), 1000.0, 5.0)[1] == []


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 3)), max_size=200))
def test_whatever_comes_only_those_above_the_target_are_turned_away(looks: list[tuple[float, float]]) -> None:
    state, now = Queue(TIMEOUT), 0.0
    for pause, wait in looks:
        now += pause
        state, is_over = step(state, wait, now)
        assert not (is_over and wait < TARGET * TIMEOUT)
        assert is_over or wait < TIMEOUT
        assert state.is_overloaded <= (wait >= TARGET * TIMEOUT)


@pytest.mark.parametrize("service", [0.002, 0.01, 0.05])
@pytest.mark.parametrize("clients", [20, 200, 2000])
def test_the_answers_in_time_are_as_many_as_at_the_peak_however_many_clients_there_are(
    clients: int, service: float
) -> None:
    good, shed = simulate(clients, service, patience=1.0, seconds=30.0)
    assert good >= 0.95 / service
    assert shed <= 2 * clients + MOST_OFTEN


def simulate(clients: int, service: float, patience: float, seconds: float) -> tuple[float, float]:
    """One server, `clients` who give up after `patience` and come back at once: answers in time, refusals, a second."""
    comers = [(number * 0.5 / clients, number) for number in range(clients)]
    heapq.heapify(comers)
    line: deque[tuple[float, int]] = deque()
    state, now, good, shed = Queue(TIMEOUT), 0.0, 0, 0
    while now < seconds:
        while comers and comers[0][0] <= now:
            line.append(heapq.heappop(comers))
        while line and line[0][0] + patience <= now:  # gave up, and asks again
            heapq.heappush(comers, (line[0][0] + patience, line.popleft()[1]))
        while line:
            state, is_over = step(state, now - line[0][0], now)
            if not is_over:
                break
            heapq.heappush(comers, (now + 0.001, line.popleft()[1]))
            shed += 1
        if not line:
            state, _ = step(state, 0.0, now)
            now = max(now + 0.001, comers[0][0])
            continue
        asked, who = line.pop() if state.is_overloaded else line.popleft()
        now += service
        good += now - asked <= patience
        heapq.heappush(comers, (now + 0.0005, who))
    return good / seconds, shed / seconds
