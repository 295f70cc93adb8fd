"""Which requests are called out, over generated series of deaths."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.watch.poison import DEATHS, WITHIN, Poison, died, signature


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/orders/42/items/7", "GET /orders/{id}/items/{id}"),
        ("/users/123e4567-e89b-12d3-a456-426614174000", "GET /users/{id}"),
        ("/blobs/5f2b8c9d0e1f2a3b4c5d6e7f", "GET /blobs/{id}"),
        ("/events/01ARZ3NDEKTSV4RRFFQ69G5FAV", "GET /events/{id}"),
        ("/v2/users", "GET /v2/users"),
        ("/deadbeef", "GET /deadbeef"),
        ("/effaceeffaceefface", "GET /effaceeffaceefface"),
        ("/poison?id=3", "GET /poison"),
        ("/", "GET /"),
        ("*", "GET *"),
    ],
)
def test_what_differs_between_requests_of_a_kind_is_left_out_and_nothing_else(path: str, kind: str) -> None:
    assert signature("GET", path) == kind


def series(*deaths: tuple[float, set[str]]) -> list[tuple[float, str]]:
    """When what was called out."""
    state, told = Poison(), []
    for at, present in deaths:
        state, names = died(state, present, at)
        told += [(at, name) for name in names]
    return told


def test_the_third_death_within_a_minute_calls_it_out() -> None:
    assert series((0, {"GET /a"}), (30, {"GET /a"}), (59, {"GET /a"})) == [(59, "GET /a")]


def test_three_deaths_over_more_than_a_minute_are_none_of_its_business() -> None:
    assert series((0, {"GET /a"}), (40, {"GET /a"}), (61, {"GET /a"})) == []


def test_it_is_called_out_once_in_an_episode_and_again_in_the_next() -> None:
    first = [(float(at), {"GET /a"}) for at in range(0, 200, 10)]
    second = [(float(at), {"GET /a"}) for at in range(400, 440, 10)]
    assert series(*first, *second) == [(20.0, "GET /a"), (420.0, "GET /a")]


def test_what_was_with_the_worker_by_chance_is_not_called_out() -> None:
    assert series(*[(float(at), {"POST /poison", f"GET /{at}"}) for at in range(5)]) == [(2.0, "POST /poison")]


def test_deaths_without_a_request_accuse_nobody() -> None:
    assert series((0, set()), (1, set()), (2, set()), (3, {"GET /a"})) == []


@given(
    st.lists(st.tuples(st.floats(0, 30), st.frozensets(st.sampled_from(["a", "b", "c", "d"]), max_size=4)), max_size=60)
)
def test_whoever_is_called_out_was_in_three_deaths_of_the_last_minute_and_is_told_once_until_it_stops(
    steps: list[tuple[float, frozenset[str]]],
) -> None:
    state, now = Poison(), 0.0
    deaths: list[tuple[float, frozenset[str]]] = []
    last_told: dict[str, float] = {}
    for pause, present in steps:
        now += pause
        deaths.append((now, present))
        state, names = died(state, present, now)
        recent = [each for at, each in deaths if now - at < WITHIN]
        for name in names:
            assert sum(name in each for each in recent) >= DEATHS
            if name in last_told:  # an episode has ended in between
                since = [at for at, each in deaths if name in each and at >= last_told[name]]
                assert any(later - earlier >= WITHIN for earlier, later in itertools.pairwise(since))
            last_told[name] = now
        for name in present:
            if sum(name in each for each in recent[-32:]) >= DEATHS:
                assert name in last_told
        assert len(state.deaths) <= 32
