from __future__ import annotations

import pytest
from msgspec.structs import replace

from supervisor.control.outcome import Command, Outcome, is_idle, judge, progress
from supervisor.control.targets import narrow
from supervisor.messages.status import AppStatus
from tests.control.stage import app, worker

OLD = app(2)
NEW = app(2, first_pid=5000)
STOPPED = app(2, state="stopped")
HALF = replace(NEW, state="starting", workers=(worker(1, 5001), worker(2, 5002, state="starting")))
FAILED = replace(STOPPED, state="failed")
ONE_HELD = replace(NEW, workers=(worker(1, 5001), worker(2, 0, state="stopped")))
MIXED = replace(NEW, workers=(worker(1, 1001, state="draining"), worker(1, 5001), worker(2, 5002)))


@pytest.mark.parametrize(
    ("command", "before", "now", "done"),
    [
        ("start", STOPPED, NEW, True),
        ("start", STOPPED, HALF, None),
        ("start", STOPPED, ONE_HELD, True),
        ("start", STOPPED, replace(STOPPED, state="running"), None),
        ("start", STOPPED, FAILED, False),
        ("start", STOPPED, replace(NEW, state="degraded"), None),
        ("start", STOPPED, None, False),
        ("stop", OLD, STOPPED, True),
        ("stop", OLD, OLD, None),
        ("stop", OLD, replace(OLD, state="stopped"), None),
        ("stop", OLD, None, True),
        ("restart", OLD, OLD, None),
        ("restart", OLD, STOPPED, None),
        ("restart", OLD, MIXED, None),
        ("restart", OLD, HALF, None),
        ("restart", OLD, NEW, True),
        ("restart", OLD, FAILED, False),
        ("restart", replace(OLD, state="failed"), OLD, None),
    ],
)
def test_an_app(command: Command, before: AppStatus, now: AppStatus | None, done: bool | None) -> None:
    outcome = judge(command, None, before, now)
    assert (outcome and outcome.done) == done


@pytest.mark.parametrize(
    ("command", "before", "now", "done"),
    [
        ("stop", OLD, replace(OLD, workers=(worker(1, 0, state="stopped"), worker(2, 1002))), True),
        ("stop", OLD, OLD, None),
        ("stop", OLD, replace(OLD, workers=(worker(2, 1002),)), True),
        ("start", STOPPED, replace(STOPPED, workers=(worker(1, 7, state="starting"),)), None),
        ("start", STOPPED, replace(STOPPED, workers=(worker(1, 7),)), True),
        ("start", STOPPED, FAILED, False),
        ("restart", OLD, MIXED, None),
        ("restart", OLD, NEW, True),
        ("restart", OLD, OLD, None),
    ],
)
def test_a_worker(command: Command, before: AppStatus, now: AppStatus, done: bool | None) -> None:
    outcome = judge(command, 1, narrow(before, [1]), narrow(now, [1]))
    assert (outcome and outcome.done) == done


def test_an_app_is_idle_when_nothing_is_or_shall_be_there() -> None:
    assert is_idle(STOPPED)
    assert not is_idle(HALF)
    assert not is_idle(ONE_HELD)
    assert not is_idle(replace(STOPPED, state="failed", workers=(worker(1, 0, state="backoff"),)))


def test_the_words() -> None:
    assert judge("start", None, STOPPED, NEW) == Outcome(True, "started: 2 workers are ready")
    assert judge("restart", None, OLD, app(1, first_pid=9)) == Outcome(True, "restarted: 1 worker is ready")
    assert judge("stop", None, OLD, STOPPED) == Outcome(True, "stopped")
    assert progress(None, HALF) == "starting, 1 of 2 workers ready"
    assert progress(1, narrow(MIXED, [1])) == "draining (pid 1001), ready (pid 5001)"
