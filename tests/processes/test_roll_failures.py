"""Each way in which a release can go wrong, rolled to under load: the verdict, its reason, and what clients see."""

from __future__ import annotations

import pytest

from tests.processes.failures import KINDS, WORKERS, Outcome, failures


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return {outcome.kind.name: outcome for outcome in failures(tmp_path_factory.mktemp("failures"))}


NAMES = [kind.name for kind in KINDS]
NEVER_SERVED = NAMES[:6] + NAMES[-1:]
WRONG_ANSWERS = ("500s only", "10 % 500s")


@pytest.mark.parametrize("name", NAMES)
def test_no_release_that_goes_wrong_is_committed_and_each_is_told_why(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.verdict == ("refused" if name == "bad settings file" else "rolled_back"), outcome
    assert outcome.kind.reason in outcome.reason


@pytest.mark.parametrize("name", NEVER_SERVED)
def test_clients_see_nothing_of_a_release_that_never_served(outcomes: dict[str, Outcome], name: str) -> None:
    load = outcomes[name].load
    assert load.lost == 0, load
    assert set(load.releases) == {"first"}


@pytest.mark.parametrize("name", NAMES)
def test_no_bad_release_gets_more_than_one_workers_share(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.share <= 1 / (WORKERS + 1), outcome


@pytest.mark.parametrize("name", NAMES)
def test_the_old_workers_serve_on_and_none_of_them_was_replaced(outcomes: dict[str, Outcome], name: str) -> None:
    app = outcomes[name].app
    serving = [worker for worker in app["workers"] if worker["state"] == "ready"]
    assert [worker["generation"] for worker in serving] == [1] * WORKERS
    first = [worker["pid"] for worker in outcomes[NAMES[0]].app["workers"] if worker["state"] == "ready"]
    assert [worker["pid"] for worker in serving] == first
    assert app["state"] == "running"


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_wrong_answers_are_found_out_long_before_the_bake_is_over(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.load.lost == outcome.load.lost_by["5xx"], outcome
    assert outcome.load.lost <= 60, outcome
    assert outcome.seconds < 1.9, outcome
