"""The soak's own arithmetic, and half a minute of it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from tests.processes import soak
from tests.processes.load import Report
from tests.processes.soak import KINDS, Entry, Growth, Size, Soak, draw, event_lost, growth, judge, markdown

MIB = 2**20


def sizes(count: int, **last: int) -> list[Size]:
    """Constant but for what is named, which grows evenly to `last`."""
    start = {"master_rss": 20 * MIB, "master_fds": 40, "cluster_anon": 90 * MIB, "cluster_fds": 120, "processes": 6}
    return [
        Size(at_s=at, **{name: value + (last.get(name, value) - value) * at // count for name, value in start.items()})
        for at in range(count)
    ]


def test_a_seed_draws_the_same_deeds_and_each_of_them_by_its_weight() -> None:
    first, second = random.Random(7), random.Random(7)
    drawn = [draw(first).name for _ in range(2000)]
    assert drawn == [draw(second).name for _ in range(2000)]
    counts, whole = Counter(drawn), sum(kind.weight for kind in KINDS)
    for kind in KINDS:
        assert abs(counts[kind.name] / 2000 - kind.weight / whole) < 0.05


def test_growth_is_from_the_first_quarter_to_the_last_without_the_warm_up() -> None:
    assert growth([1000, *[10] * 9, *[15] * 9, *[20] * 9]) == Growth(10, 20)
    assert growth([10] * 7) == Growth(0, 0)
    assert growth([10] * 40).share == 0
    assert growth([10] * 20 + [11] * 20).share == 0.1


def test_nothing_lost_and_nothing_grown_is_no_failure() -> None:
    assert judge(Soak(1, entries=[Entry("roll", 0, 1, Report(ok=10))], sizes=sizes(40))) == []


def test_what_grows_is_a_failure_by_its_name() -> None:
    (failure,) = judge(Soak(1, sizes=sizes(40, master_rss=22 * MIB)))
    assert failure.startswith("the master's RSS, MiB: 20.")
    (failure,) = judge(Soak(1, sizes=sizes(40, processes=9)))
    assert failure.startswith("processes: ")


def test_a_loss_is_a_failure_unless_somebody_was_killed_and_accounts_for_it() -> None:
    lost = Report(requests=10, lost=2)
    (failure,) = judge(Soak(1, entries=[Entry("roll", 5, 1, lost)], clients=lost, killed=2))
    assert failure.startswith("2 lost at 5 s (roll)")
    kill = [Entry("kill -9 of a worker", 5, 1, lost)]
    assert judge(Soak(1, entries=kill, clients=lost, killed=1, told_lost=1)) == []
    (failure,) = judge(Soak(1, entries=kill, clients=lost, killed=1, told_lost=0))
    assert failure == "2 lost, and 1 who were killed told of 0 only"


def test_a_loss_of_a_load_that_did_not_run_itself_is_told_and_is_no_failure() -> None:
    lost = Report(requests=10, lost=1, client_stall_s=60.0, losses=[{"detail": "status 408"}])
    it = Soak(1, entries=[Entry("roll", 5, 1, lost)], clients=lost, pauses=[60.0])
    assert judge(it) == []
    assert "At 5 s the load did not run for 60 s; then 1 lost: status 408" in markdown(it, "m", "d", "v")


def test_the_requests_that_a_line_of_the_log_tells_of_are_counted() -> None:
    line = "2026-11-21T07:54:34.922+00:00 error web:1 12986 worker.exited killed by SIGKILL after 0.6 s{}; replaced"
    assert event_lost(line.format(", 3 requests lost with it")) == 3
    assert event_lost(line.format(", 1 request lost with it")) == 1
    assert event_lost(line.format("")) == 0


def test_the_report_says_how_long_it_ran_what_was_done_and_what_disturbed_it() -> None:
    entries = [Entry("roll", at, at / 10, Report(ok=10)) for at in (1, 2, 3)]
    it = Soak(7, entries=entries, sizes=sizes(40), seconds=1800, clients=Report(requests=1000, ok=1000), pauses=[61.0])
    text = markdown(it, "machine with 2 CPUs", "2026-11-21", "0.1.0")
    assert "2026-11-21, 30 minutes, seed 7, holdfast 0.1.0, on a machine with 2 CPUs." in text
    assert "| roll | 3 | 0 | 0.2 s | 0.3 s |" in text
    assert "**Passed.**" in text
    assert "the longest for 61 s" in text
    it.failures.append("something")
    assert "**Failed.**" in markdown(it, "m", "d", "v")


def test_half_a_minute_of_it_passes(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir()
    told: list[str] = []
    result = soak.run(folder, 25.0, 11, connections=6, tell=told.append)
    assert result.failures == []
    assert len(told) == len(result.entries) >= 2
    assert result.clients.ok > 500
    assert b"worker.ready" in result.log
