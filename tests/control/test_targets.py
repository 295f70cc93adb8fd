from __future__ import annotations

import os

import pytest

from supervisor.control.targets import are_running, pids, ready, select, split
from supervisor.errors import RefusedError
from supervisor.messages.status import AppState, AppStatus, SlotState, Status
from tests.control.stage import app, worker


def status(**apps: AppStatus) -> Status:
    return Status(version="1", pid=os.getpid(), uptime_s=1, state="running", apps=apps)


TWO = status(web=app(3), api=app(1, state="stopped"))


def test_a_target_is_an_app_and_perhaps_a_slot() -> None:
    assert split("web") == ("web", None)
    assert split("web:12") == ("web", 12)


@pytest.mark.parametrize("target", ["web:", "web:x", "web:-1", "web:1:2", "web:²", ":"])
def test_a_slot_is_a_number(target: str) -> None:
    with pytest.raises(RefusedError, match="expected APP, APP:SLOT"):
        split(target)


@pytest.mark.parametrize("targets", [[], ["all"], ["web", "all"]])
def test_nothing_and_all_mean_everything(targets: list[str]) -> None:
    assert select(TWO, targets) == TWO.apps


def test_named_workers_are_all_that_is_left() -> None:
    chosen = select(TWO, ["web:3", "web:1"])
    assert list(chosen) == ["web"]
    assert [each.slot for each in chosen["web"].workers] == [1, 3]


@pytest.mark.parametrize("targets", [["web:1", "web"], ["web", "web:1"]])
def test_an_app_named_beside_its_worker_is_whole(targets: list[str]) -> None:
    assert len(select(TWO, targets)["web"].workers) == 3


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RefusedError, match="no app called 'wbe'; there is web, api"):
        select(TWO, ["web", "wbe"])
    with pytest.raises(RefusedError, match="web has no worker 4; it has 1, 2, 3"):
        select(TWO, ["web:4"])


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("running", True),
        ("rolling", True),
        ("degraded", True),
        ("starting", False),
        ("stopped", False),
        ("failed", False),
    ],
)
def test_which_states_of_an_app_are_running(state: AppState, expected: bool) -> None:
    assert are_running(status(web=app(state=state)), ["web"]) is expected
    assert are_running(status(web=app(state=state)), ["all"]) is expected
    assert are_running(status(web=app(state=state)), [])


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("ready", True),
        ("saturated", True),
        ("stalled", True),
        ("starting", False),
        ("draining", False),
        ("backoff", False),
        ("stopped", False),
    ],
)
def test_which_states_of_a_worker_are_running(state: SlotState, expected: bool) -> None:
    one = AppStatus(
        state="running",
        generation=1,
        bind=(),
        workers=(worker(1, 5, state=state),),
        totals=app().totals,
        last_roll=None,
    )
    assert are_running(status(web=one), ["web:1"]) is expected
    assert ready(one) == (int(expected), 1)


def test_a_slot_in_motion_counts_once() -> None:
    both = (worker(1, 5, 1, "draining"), worker(1, 6, 2, "ready"), worker(2, 0, 1, "backoff"))
    moving = AppStatus(state="rolling", generation=2, bind=(), workers=both, totals=app().totals, last_roll=None)
    assert ready(moving) == (1, 2)
    assert pids(moving) == [5, 6]
