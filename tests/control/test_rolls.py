from __future__ import annotations

import os
from typing import Any

from msgspec.structs import replace

from supervisor.control.rolls import RollWatch, as_object, ending, ledger_line
from supervisor.messages.events import Event
from supervisor.messages.status import AppStatus, Begun, Ledger, RollStatus, Status, Verdict
from tests.control.stage import app


def event(name: str, ts: float = 0.0, text: str = "", app: str = "web", **fields: Any) -> Event:
    return Event(ts=ts, name=name, text=text, app=app, fields=fields)


def between(to: int) -> dict[str, Any]:
    """The stage's rolls are numbered as their targets."""
    return {"from": to - 1, "to": to, "number": to}


def started(to: int, ts: float = 0.0) -> Event:
    return event("roll.started", ts, **between(to))


def ended(name: str, to: int, **more: Any) -> Event:
    return event(f"roll.{name}", 9.0, **between(to) | {"seconds": 2.5, "reason": ""} | more)


def snapshot(roll: RollStatus | None, **changes: Any) -> Status:
    one: AppStatus = replace(app(2), last_roll=roll, **changes)
    return Status(version="1", pid=os.getpid(), uptime_s=1, state="running", apps={"web": one})


def last(to: int, verdict: Verdict, reason: str = "") -> RollStatus:
    return RollStatus(from_=to - 1, to=to, verdict=verdict, reason=reason, seconds=1.5, number=to)


def watching(**targets: int) -> RollWatch:
    return RollWatch({app: Begun(target, target) for app, target in targets.items()})


def test_a_good_roll_is_told_step_by_step() -> None:
    watch = watching(web=4)
    steps = [
        watch.see(started(4, 10.0)),
        watch.see(event("roll.step", 10.5, "worker 1 replaced (1 of 2)")),
        watch.see(event("roll.step", 11.5, "worker 2 replaced (2 of 2)")),
    ]
    assert [(step.text, step.seconds) for step in steps if step] == [
        ("generation 4 is on its way (from 3)", None),
        ("worker 1 replaced (1 of 2)", 0.5),
        ("worker 2 replaced (2 of 2)", 1.0),
    ]
    assert watch.pending == ["web"]
    watch.see(ended("committed", 4))
    assert watch.pending == []
    assert watch.is_committed
    assert ending(watch.rolls["web"]) == "web: generation 4 committed in 2.5 s"


def test_a_roll_back_has_its_reason_and_the_releases_own_words() -> None:
    watch = watching(web=4)
    watch.see(started(4))
    watch.see(ended("rolled_back", 4, reason="it does not import", output=["Traceback", "Boom"]))
    roll = watch.rolls["web"]
    assert not watch.is_committed
    assert ending(roll) == (
        "web: generation 4 rolled back after 2.5 s: it does not import; generation 3 goes on serving"
    )
    assert as_object(roll) == {
        "from": 3,
        "to": 4,
        "verdict": "rolled_back",
        "reason": "it does not import",
        "seconds": 2.5,
        "number": 4,
        "ledger": None,
        "steps": [{"text": "generation 4 is on its way (from 3)", "seconds": None}],
        "output": ["Traceback", "Boom"],
    }


def test_the_last_line_has_the_ledger() -> None:
    watch = watching(web=4)
    ledger = {
        "accepted": 12,
        "completed": 9,
        "cut": 1,
        "reset": 2,
        "handed_over": 5,
        "drained": 4,
        "connections_cut": 1,
    }
    watch.see(ended("committed", 4, ledger=ledger))
    assert ending(watch.rolls["web"]) == (
        "web: generation 4 committed in 2.5 s; requests: 12 accepted, 9 completed, 1 cut, 2 reset; "
        "connections: 5 handed over, 4 drained, 1 cut"
    )
    assert as_object(watch.rolls["web"])["ledger"] == ledger | {"under_way": 0}


def test_requests_still_under_way_show_when_there_are_any() -> None:
    assert "9 completed, 3 under way, 0 cut" in ledger_line(Ledger(accepted=12, completed=9, under_way=3))


def test_a_rollback_is_followed_although_its_generation_is_the_lower_one() -> None:
    watch = RollWatch({"web": Begun(3, 8)})
    watch.look(snapshot(replace(last(4, "committed"), number=7)))
    assert watch.pending == ["web"]
    between: dict[str, Any] = {"from": 4, "to": 3, "number": 8}
    watch.see(event("roll.started", **between))
    watch.see(event("roll.committed", **between | {"seconds": 0.2}))
    assert ending(watch.rolls["web"]) == "web: generation 3 committed in 0.2 s"


def test_the_end_of_an_older_roll_is_not_taken_for_ours() -> None:
    watch = watching(web=5)
    assert watch.see(event("roll.step", text="of the older one")) is None
    assert watch.see(ended("rolled_back", 4, superseded_by=5)) is None
    assert watch.pending == ["web"]


def test_a_superseded_roll_is_followed_into_the_newer_one() -> None:
    watch = watching(web=4)
    watch.see(started(4))
    step = watch.see(ended("rolled_back", 4, superseded_by=5))
    assert step is not None
    assert "superseded by generation 5" in step.text
    assert watch.pending == ["web"]
    watch.see(started(5))
    watch.see(ended("committed", 5))
    assert ending(watch.rolls["web"]).startswith("web: generation 5 committed")


def test_the_newer_roll_may_begin_before_the_older_one_has_ended() -> None:
    watch = watching(web=4)
    watch.see(started(4))
    watch.see(started(5))
    assert watch.see(ended("rolled_back", 4, superseded_by=5)) is None
    watch.see(ended("committed", 5))
    assert watch.is_committed


def test_other_apps_and_other_events_are_nothing() -> None:
    watch = watching(web=4)
    assert watch.see(event("roll.started", app="api", to=9)) is None
    assert watch.see(event("worker.ready")) is None
    assert watch.see(Event(ts=0, name="log", text="of the master")) is None
    assert watch.pending == ["web"]


def test_several_apps_are_over_when_the_last_one_is() -> None:
    watch = watching(web=2, api=2)
    watch.see(ended("committed", 2))
    assert watch.pending == ["api"]
    watch.see(event("roll.rolled_back", app="api", to=2, reason="no"))
    assert watch.pending == []
    assert not watch.is_committed


def test_a_snapshot_alone_is_enough() -> None:
    watch = watching(web=4)
    watch.look(snapshot(None))
    watch.look(snapshot(last(3, "committed")))
    watch.look(snapshot(last(4, "running")))
    assert watch.pending == ["web"]
    watch.look(snapshot(last(4, "rolled_back", "it died")))
    assert "it died" in ending(watch.rolls["web"])


def test_a_snapshot_of_a_newer_roll_is_followed() -> None:
    watch = watching(web=4)
    watch.look(snapshot(last(6, "running")))
    assert watch.pending == ["web"]
    watch.look(snapshot(last(6, "committed")))
    assert watch.is_committed
    assert watch.rolls["web"].target == 6


def test_an_app_that_is_gone_or_stopped_ends_its_roll() -> None:
    gone, stopped = watching(web=4), watching(web=4)
    gone.look(Status(version="1", pid=1, uptime_s=1, state="running", apps={}))
    stopped.look(snapshot(None, state="stopped"))
    assert "no longer in the settings" in ending(gone.rolls["web"])
    assert "the app was stopped" in ending(stopped.rolls["web"])


def test_fields_of_wrong_types_do_no_harm() -> None:
    watch = watching(web=4)
    watch.see(event("roll.started", to="x"))
    watch.see(event("roll.rolled_back", to=None, seconds="long", output="one\ntwo", reason=None))
    assert watch.rolls["web"].output == ["one", "two"]
    assert "no reason given" in ending(watch.rolls["web"])
