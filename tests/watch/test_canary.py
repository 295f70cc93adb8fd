"""The verdict on a release that is watched, and how much it may take meanwhile."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.watch.canary import HEAD_START, STALLED_AFTER, Look, Pulse, allowance, verdict
from supervisor.watch.evidence import Answers

MB = 2**20
WELL = Look((Pulse(1, 0.05, 50 * MB),), Answers(100, 1), Answers(300, 2), Answers(1000, 5), 0.002)


def judged(look: Look, max_memory: int | None = None, *, owns_loop: bool = True) -> str | None:
    return verdict(look, max_memory, owns_loop=owns_loop)


def test_a_release_that_does_as_the_old_one_does_may_go_on() -> None:
    assert judged(WELL, 100 * MB) is None


def test_a_release_without_any_traffic_may_go_on() -> None:
    assert judged(replace(WELL, new=Answers(), old=Answers())) is None


def test_memory_past_its_limit_is_told_with_both_sizes() -> None:
    look = replace(WELL, pulses=(Pulse(1, 0, 50 * MB), Pulse(3, 0, 101 * MB)))
    assert judged(look, 100 * MB) == "memory of its worker 3: 101 MB is past max_memory 100 MB"
    assert judged(look) is None


def test_a_blocked_event_loop_is_a_stall() -> None:
    look = replace(WELL, pulses=(Pulse(2, 1.26, 1),))
    assert judged(look) == "its worker 2 stalled: its event loop is blocked for 1.3 s"
    assert judged(replace(look, pulses=(Pulse(2, STALLED_AFTER, 1),))) is None


def test_a_loop_blocked_no_longer_than_the_old_releases_are_is_no_stall() -> None:
    look = replace(WELL, pulses=(Pulse(1, 1.5, 1),))
    assert judged(replace(look, usual_block=0.8)) is None
    assert judged(replace(look, usual_block=0.7)) is not None


def test_an_app_that_runs_on_the_loop_itself_may_block_it() -> None:
    assert judged(replace(WELL, pulses=(Pulse(1, 5.0, 1),)), owns_loop=False) is None


def test_more_errors_than_the_old_release_has_are_told_with_both_counts() -> None:
    look = replace(WELL, new=Answers(20, 17), old=Answers(312, 0))
    assert judged(look) == ("17 of 20 of its answers were errors; the old release's in the same time: 0 of 312")


@given(st.floats(0.01, 0.9), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_canary_never_gets_ahead_of_its_share_by_more_than_its_head_start(
    share: float, accepted: int, others: int
) -> None:
    """Each connection brings one request."""
    allowed = allowance(share, accepted, accepted, others)
    assert allowed >= accepted, "what it has taken is not taken back"
    assert allowed == accepted or allowed <= HEAD_START + others * share / (1 - share)


@given(st.floats(0.01, 0.9), st.integers(1, 10**6))
def test_a_canary_that_has_not_begun_may_catch_up_with_the_others(share: float, others: int) -> None:
    assert allowance(share, 0, 0, others) >= int(others * share / (1 - share))


def test_requests_on_connections_kept_alive_count_against_its_share() -> None:
    assert allowance(0.5, accepted=2, taken=500, others=100) == 2
    assert allowance(0.5, accepted=2, taken=500, others=600) > 2


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_what_the_others_take_only_ever_adds_to_what_a_canary_may(accepted: int, taken: int, others: int) -> None:
    assert allowance(0.2, accepted, taken, others + 100) >= allowance(0.2, accepted, taken, others)
