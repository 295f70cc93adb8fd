"""The test of answers: what it must notice, what it must not, and how often it errs when looked at all the time."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.watch.evidence import ALPHA, ENOUGH, Answers, evidence, is_worse, reference

NONE = Answers()
COUNTS = st.integers(0, 5000)


def answers(total: st.SearchStrategy[int] = COUNTS) -> st.SearchStrategy[Answers]:
    return total.flatmap(lambda n: st.integers(0, n).map(lambda errors: Answers(n, errors)))


@pytest.mark.parametrize("old", [0, 1, 5, 20, 300, 10_000, 1_000_000])
def test_a_release_that_answers_only_500s_is_found_out_within_its_first_20_requests(old: int) -> None:
    assert any(is_worse(Answers(n, n), Answers(old, 0), NONE) for n in range(1, 21))
    assert is_worse(Answers(20, 20), Answers(old, old * 0.05), Answers(1000, 50))


@pytest.mark.parametrize("old", [0, 1, 5, 20, 300, 10_000, 1_000_000])
def test_one_or_two_unlucky_500s_in_ten_never_count(old: int) -> None:
    for total in range(1, 11):
        assert not is_worse(Answers(total, 1), Answers(old, 0), NONE)
        assert not is_worse(Answers(total, min(total, 2)), Answers(old, 0), NONE)


@pytest.mark.parametrize("old", [300, 3000, 100_000])
def test_a_tenth_of_500s_is_found_out_within_a_hundred_requests(old: int) -> None:
    assert is_worse(Answers(100, 10), Answers(old, 0), NONE)
    assert is_worse(Answers(400, 40), Answers(old, old * 0.01), NONE)


@given(answers(), st.floats(0, 1))
def test_a_release_with_as_many_errors_as_the_old_one_or_fewer_is_not_worse(old: Answers, part: float) -> None:
    if old.total >= ENOUGH:
        assert not is_worse(Answers(old.total, math.floor(old.errors * part)), old, NONE)


def test_errors_that_both_releases_have_at_the_same_time_are_nobodys_fault() -> None:
    assert not is_worse(Answers(40, 40), Answers(60, 60), Answers(100_000, 0))
    assert not is_worse(Answers(15, 15), Answers(19, 19), Answers(100_000, 0)), "nor is one earlier good answer proof"


def test_an_old_release_without_traffic_is_judged_by_what_it_did_before() -> None:
    assert is_worse(Answers(5, 5), NONE, Answers(1000, 3))
    assert not is_worse(Answers(20, 20), NONE, Answers(1000, 1000))
    assert is_worse(Answers(5, 5), NONE, NONE), "and one that never had any is taken to be good"


@given(answers(), answers())
def test_the_reference_has_enough_answers_and_keeps_all_of_the_same_time(old: Answers, earlier: Answers) -> None:
    found = reference(old, earlier)
    assert found.total >= ENOUGH
    assert found == old or old.total < ENOUGH
    assert 0 <= found.errors <= found.total


@given(answers(st.integers(1, 300)), answers(st.integers(20, 300)))
def test_one_more_error_of_the_new_release_never_speaks_for_it_nor_one_more_good_answer_against_it(
    new: Answers, old: Answers
) -> None:
    before = is_worse(new, old, NONE)
    assert not before or is_worse(Answers(new.total + 1, new.errors + 1), old, NONE)
    assert before or not is_worse(Answers(new.total + 1, new.errors), old, NONE)


@given(st.integers(1, 12), st.floats(0.01, 0.99))
def test_equally_good_releases_have_evidence_whose_mean_is_one_at_most(total: int, chance: float) -> None:
    """Exactly, over all outcomes: the martingale's mean, on which Ville's inequality rests."""
    mean = 0.0
    for new in range(total + 1):
        for old in range(total + 1):
            ways = math.comb(total, new) * math.comb(total, old)
            likelihood = ways * chance ** (new + old) * (1 - chance) ** (2 * total - new - old)
            mean += likelihood * math.exp(evidence(Answers(total, new), Answers(total, old)))
    assert mean <= 1 + 1e-9


@pytest.mark.parametrize("chance", [0.002, 0.05, 0.5])
def test_looking_after_each_answer_gives_up_an_equally_good_release_hardly_ever(chance: float) -> None:
    luck = random.Random(4)
    given_up = sum(is_given_up(luck, chance, chance, answers=300) for _ in range(2000))
    assert given_up <= 2000 * ALPHA + 4, "two of 2,000 are promised; four more are this series' own luck"


@pytest.mark.parametrize(("old", "new"), [(0.0, 0.1), (0.01, 0.15), (0.2, 0.6)])
def test_looking_after_each_answer_finds_out_nearly_every_release_that_is_worse(old: float, new: float) -> None:
    luck = random.Random(4)
    assert sum(is_given_up(luck, old, new, answers=400) for _ in range(200)) >= 190


def is_given_up(luck: random.Random, old_chance: float, new_chance: float, answers: int) -> bool:
    """A quarter of the traffic is the new release's; both are looked at after each answer of it."""
    old, new = Answers(), Answers()
    for _ in range(answers):
        new += Answers(1, luck.random() < new_chance)
        old += Answers(3, sum(luck.random() < old_chance for _ in range(3)))
        if is_worse(new, old, NONE):
            return True
    return False


def test_the_more_of_the_answers_are_errors_the_sooner_it_is_found_out() -> None:
    needed = [
        next(n for n in range(1, 5000) if is_worse(Answers(n, n * rate), Answers(1000, 0), NONE)) for rate in RATES
    ]
    assert all(first <= second for first, second in pairwise(needed)), needed


RATES = (1.0, 0.75, 0.5, 0.25, 0.1, 0.05)
