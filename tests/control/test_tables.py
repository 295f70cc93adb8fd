from __future__ import annotations

import io

import pytest
from msgspec.structs import replace
from rich.console import Console, RenderableType

from supervisor.control.tables import app_line, duration, master_line, size, worker_table
from supervisor.messages.status import RollStatus, Status, Totals, Verdict
from tests.control.stage import app, worker


def drawn(picture: RenderableType, width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, markup=False).print(picture)
    return out.getvalue()


def roll(verdict: Verdict, reason: str = "") -> RollStatus:
    return RollStatus(from_=2, to=3, verdict=verdict, reason=reason, seconds=1.25)


def test_the_master_in_a_line() -> None:
    status = Status(version="0.1.0", pid=7, uptime_s=3700, state="running", apps={})
    assert drawn(master_line(status)) == "holdfast 0.1.0, pid 7, up 1h 1m, running\n"


def test_an_app_in_a_line() -> None:
    assert drawn(app_line("web", app(2))) == (
        "web  running  generation 1  127.0.0.1:8000  2/2 ready  24690 requests  0 restarts\n"
    )


def test_losses_show_only_when_there_are_any() -> None:
    one = replace(app(2), totals=Totals(requests=1, restarts=1, lost=3, shed=2))
    assert drawn(app_line("web", one)).endswith("1 request  1 restart  2 shed  3 lost\n")


def test_a_memory_limit_is_shown_as_it_resolves() -> None:
    assert drawn(app_line("web", replace(app(2), max_memory_bytes=3 * 2**29))).endswith("  max 1.5G a worker\n")


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (roll("committed"), "roll 2 to 3 committed in 1.2s"),
        (roll("rolled_back", "no\nimport\x1b[2J"), r"roll 2 to 3 rolled back after 1.2s: no\nimport\x1b[2J"),
        (roll("running"), "roll 2 to 3 under way for 1.2s"),
    ],
)
def test_the_last_roll_ends_the_line(last: RollStatus, said: str) -> None:
    assert drawn(app_line("web", replace(app(2), last_roll=last))).endswith(f"  {said}\n")


def test_a_worker_a_line_in_columns() -> None:
    lines = drawn(worker_table("web", app(12).workers, 200)).splitlines()
    assert len(lines) == 13
    assert lines[0].split() == [
        *("WORKER", "PID", "GEN", "STATE", "UPTIME", "INFLIGHT", "CONNS", "REQUESTS"),
        *("LAG", "MAX", "RSS", "PSS", "USS", "CPU", "RESTARTS"),
    ]
    assert lines[12].split()[:3] == ["web:12", "1012", "1"]
    assert " 50M " in lines[1]
    assert len({line.index("ready") for line in lines[1:]}) == 1


def test_an_empty_slot_has_nothing_to_measure() -> None:
    line = drawn(worker_table("web", [worker(1, 0, state="backoff")], 200)).splitlines()[1]
    assert line.split() == ["web:1", "-", "-", "backoff", *"-" * 10, "0"]


@pytest.mark.parametrize("width", [120, 80, 60, 40, 20])
def test_a_narrow_terminal_loses_columns_but_never_breaks_a_line(width: int) -> None:
    lines = drawn(worker_table("web", app(3).workers, width), width).splitlines()
    assert len(lines) == 4
    assert all(len(line) <= width for line in lines)
    assert "STATE" in lines[0]
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (10, "10s"),
        (59.9, "59s"),
        (60, "1m 0s"),
        (3599, "59m 59s"),
        (3600, "1h 0m"),
        (86399, "23h 59m"),
        (90000, "1d 1h"),
        (8640000, "100d 0h"),
    ],
)
def test_durations_for_the_eye(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0K"), (1536, "2K"), (50 * 2**20, "50M"), (1536 * 2**20, "1.5G"), (20 * 2**30, "20.0G")]
)
def test_sizes_for_the_eye(count: int, said: str) -> None:
    assert size(count) == said
