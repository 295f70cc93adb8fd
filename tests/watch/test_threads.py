"""Verdicts on WSGI threads, over generated series."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from supervisor.watch.threads import Held, Thread, look

WARN = 10.0
TICK = 0.1


def run(threads: Callable[[float], dict[str, Thread]], end: float, size: int = 2) -> dict[str, list[tuple[float, str]]]:
    """Look every tick; what was told, when and of which thread, and how long all were stuck at the worst."""
    held: dict[str, Held] = {}
    told: dict[str, list[tuple[float, str]]] = {"stuck": [], "over": [], "all": []}
    for number in range(int(end / TICK)):
        now = 100.0 + number * TICK
        found = look(held, threads(now - 100.0), size, WARN, now, TICK)
        held = dict(found.held)
        told["stuck"] += [(now - 100.0, thread) for thread in found.stuck]
        told["over"] += [(seconds, thread) for thread, seconds in found.over.items()]
        told["all"].append((now - found.all_since if found.all_since else 0.0, ""))
    return told


def worst(told: dict[str, list[tuple[float, str]]]) -> float:
    return max(seconds for seconds, _ in told["all"])


def test_quick_requests_are_not_told_and_leave_no_thread_stuck() -> None:
    told = run(lambda now: {"a": Thread(int(now * 5), 0, False), "b": Thread(int(now * 5) + 1000, 0, False)}, 60.0)
    assert told["stuck"] == told["over"] == []
    assert worst(told) < 1.0


def test_a_request_that_takes_long_is_told_once_and_so_is_its_end() -> None:
    told = run(lambda now: {"a": Thread(7, 0, False)} if 5 <= now < 30 else {}, 40.0)
    ((at, thread),) = told["stuck"]
    assert (round(at), thread) == (15, "a")
    ((seconds, ended),) = told["over"]
    assert seconds == pytest.approx(25.0, abs=0.3)
    assert ended == "a"
    assert worst(told) == 0.0


def test_the_next_request_of_a_stuck_thread_is_told_anew() -> None:
    told = run(lambda now: {"a": Thread(int(now // 20), 0, False)}, 60.0)
    assert [round(at) for at, _ in told["stuck"]] == [10, 30, 50]


def test_a_request_that_sends_something_now_and_then_is_not_stuck() -> None:
    assert run(lambda now: {"a": Thread(7, int(now // 8), False)}, 100.0)["stuck"] == []


def test_a_thread_that_waits_for_its_client_is_not_stuck() -> None:
    told = run(lambda now: {"a": Thread(7, 0, now > 2), "b": Thread(8, 0, True)}, 100.0)
    assert told["stuck"] == []
    assert worst(told) < 2.5


def test_all_threads_are_stuck_from_when_the_last_one_was() -> None:
    told = run(lambda now: {"a": Thread(7, 0, False)} | ({"b": Thread(8, 0, False)} if now > 10 else {}), 40.0)
    assert worst(told) == pytest.approx(30.0, abs=0.4)


def test_a_thread_less_than_there_can_be_is_room() -> None:
    assert worst(run(lambda now: {"a": Thread(7, 0, False), "b": Thread(8, 0, False)}, 40.0, size=3)) == 0.0


def test_time_in_which_nobody_looked_does_not_count() -> None:
    held = look({}, {"a": Thread(7, 0, False)}, 1, WARN, 100.0, TICK).held
    found = look(held, {"a": Thread(7, 0, False)}, 1, WARN, 200.0, 100.0)
    assert found.stuck == ()
    assert found.all_since == 200.0
