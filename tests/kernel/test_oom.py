"""What the kernel's counter of OOM kills explains, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.kernel.oom import ASKED, FRESH, OomKills, Verdict


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


Count = Callable[[Path, int], None]
YES, PERHAPS, NO, UNKNOWN = Verdict.YES, Verdict.PERHAPS, Verdict.NO, Verdict.UNKNOWN
OURS = "/system.slice/shop.service"
WORKER = 7


def lives_in(root: Path, group: str, pid: str) -> None:
    write(root / f"proc/{pid}/cgroup", f"0::{group}\n")


def counted(root: Path, count: int, group: str) -> None:
    write(root / f"sys/fs/cgroup{group}/memory.events", f"low 0\nhigh 0\nmax 7\noom {count}\noom_kill {count}\n")


def machine(root: Path, count: int) -> None:
    write(root / "proc/vmstat", f"nr_free_pages 1\n{'nr_x 1' * 2000}\noom_kill {count}\ndrop_slab 0\n")


def v2(root: Path, count: int) -> None:
    lives_in(root, OURS, "self")
    counted(root, count, OURS)
    machine(root, count)


def v1(root: Path, count: int) -> None:
    write(root / "proc/self/cgroup", "9:name=systemd:/x\n4:memory:/docker/abc\n0::/\n")
    write(root / "sys/fs/cgroup/memory/memory.oom_control", f"oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n")
    machine(root, count)


def v2_of_its_own(root: Path, count: int) -> None:
    """The worker's is beside the master's, in which nobody was killed."""
    v2(root, 0)
    lives_in(root, "/capped", str(WORKER))
    counted(root, count, "/capped")
    machine(root, count)


def v2_below(root: Path, count: int) -> None:
    """The worker's is below the master's, for which its kills are counted as well."""
    v2(root, count)
    lives_in(root, f"{OURS}/capped", str(WORKER))
    counted(root, count, f"{OURS}/capped")


def v1_of_its_own(root: Path, count: int) -> None:
    v1(root, 0)
    write(root / f"proc/{WORKER}/cgroup", "9:name=systemd:/x\n4:memory:/capped\n0::/\n")
    group = root / "sys/fs/cgroup/memory/capped"
    write(group / "memory.oom_control", f"oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n")
    machine(root, count)


COUNTS = [v2, v1, v2_of_its_own, v2_below, v1_of_its_own]


@pytest.mark.parametrize("count", COUNTS)
def test_a_kill_that_was_counted_explains_one_death(tmp_path: Path, count: Count) -> None:
    count(tmp_path, 3)
    kills = OomKills(str(tmp_path))
    kills.look(0.5, [WORKER])
    assert kills.verdict(WORKER, 1.0) is NO, "what was counted before is not ours"
    count(tmp_path, 4)
    assert kills.verdict(WORKER, 2.0) is YES
    assert kills.verdict(WORKER, 2.0) is NO
    assert kills.verdict(WORKER + 1, 2.0) is NO, "and not another one's either"


def test_two_kills_explain_two_deaths(tmp_path: Path) -> None:
    v2(tmp_path, 0)
    kills = OomKills(str(tmp_path))
    v2(tmp_path, 2)
    assert [kills.verdict(pid, 1.0) for pid in (1, 2, 3)] == [YES, YES, NO]


def test_a_kill_counted_a_moment_before_the_death_is_seen_explains_it(tmp_path: Path) -> None:
    v2(tmp_path, 0)
    kills = OomKills(str(tmp_path))
    v2(tmp_path, 1)
    kills.look(10.0, [WORKER])
    assert kills.verdict(WORKER, 10.5) is YES


def test_an_old_kill_of_somebody_else_explains_nothing(tmp_path: Path) -> None:
    v2(tmp_path, 0)
    kills = OomKills(str(tmp_path))
    v2(tmp_path, 1)
    kills.look(10.0, [WORKER])
    assert kills.verdict(WORKER, 10.0 + FRESH + 0.1) is NO


def test_a_sibling_s_kill_in_its_own_cgroup_does_not_explain_ours(tmp_path: Path) -> None:
    v2_of_its_own(tmp_path, 0)
    kills = OomKills(str(tmp_path))
    kills.look(0.0, [WORKER, WORKER + 1])
    v2_of_its_own(tmp_path, 1)
    assert kills.verdict(WORKER, 1.0) is YES
    assert kills.verdict(WORKER + 1, 1.0) is NO


@pytest.mark.parametrize("count", [v2_of_its_own, v1_of_its_own])
def test_who_has_moved_since_the_last_look_may_have_been_killed_or_not(tmp_path: Path, count: Count) -> None:
    v2(tmp_path, 0) if count is v2_of_its_own else v1(tmp_path, 0)
    kills = OomKills(str(tmp_path))
    kills.look(0.0, [WORKER])
    count(tmp_path, 1)
    assert kills.verdict(WORKER, 1.0) is PERHAPS
    assert kills.verdict(WORKER, 1.0 + FRESH + 0.1) is NO


def test_a_move_is_noticed_by_a_later_look(tmp_path: Path) -> None:
    v2(tmp_path, 0)
    kills = OomKills(str(tmp_path))
    kills.look(0.0, [WORKER])
    v2_of_its_own(tmp_path, 0)
    kills.look(1.0, [WORKER])
    v2_of_its_own(tmp_path, 1)
    assert kills.verdict(WORKER, 2.0) is YES
    lives_in(tmp_path, OURS, str(WORKER))
    kills.look(3.0, [WORKER])
    counted(tmp_path, 2, "/capped")
    assert kills.verdict(WORKER, 4.0) is NO


def test_the_dead_of_version_1_are_judged_by_where_they_were_seen_alive(tmp_path: Path) -> None:
    v1_of_its_own(tmp_path, 0)
    kills = OomKills(str(tmp_path))
    kills.look(0.0, [WORKER])
    v1_of_its_own(tmp_path, 1)
    write(tmp_path / f"proc/{WORKER}/cgroup", "4:memory:/\n0::/\n")
    kills.look(1.0, [WORKER])
    assert kills.verdict(WORKER, 1.0) is YES


def test_all_of_many_are_asked_for_their_cgroup_after_some_looks(tmp_path: Path) -> None:
    v2_of_its_own(tmp_path, 0)
    kills = OomKills(str(tmp_path))
    everybody = range(1000, 1000 + 3 * ASKED)
    for pid in everybody:
        lives_in(tmp_path, "/capped", str(pid))
    for second in range(1, 4):
        kills.look(float(second), everybody)
    for number, pid in enumerate(everybody, 1):
        v2_of_its_own(tmp_path, number)
        assert kills.verdict(pid, 3.0) is YES


def test_who_has_died_is_forgotten_with_its_cgroup(tmp_path: Path) -> None:
    v2_of_its_own(tmp_path, 0)
    kills = OomKills(str(tmp_path))
    kills.look(0.0, [WORKER])
    kills.look(1.0, [])
    assert kills._elsewhere == {}
    assert len(kills._counters) == 1


@pytest.mark.parametrize("text", [None, "", "oom_kill\n", "oom_kill x\n", "low 0\n"])
def test_without_counters_nothing_is_said(tmp_path: Path, text: str | None) -> None:
    lives_in(tmp_path, "/a", "self")
    if text is not None:
        write(tmp_path / "sys/fs/cgroup/a/memory.events", text)
        write(tmp_path / "proc/vmstat", text)
    kills = OomKills(str(tmp_path))
    kills.look(0.0, [WORKER])
    assert kills.verdict(WORKER, 1.0) is UNKNOWN


def test_without_a_counter_of_the_cgroup_the_machine_s_rules_out_what_it_can(tmp_path: Path) -> None:
    machine(tmp_path, 5)
    kills = OomKills(str(tmp_path))
    assert kills.verdict(WORKER, 1.0) is NO
    machine(tmp_path, 6)
    assert kills.verdict(WORKER, 2.0) is PERHAPS


def test_a_counter_that_goes_away_or_back_is_no_kill(tmp_path: Path) -> None:
    v2(tmp_path, 5)
    kills = OomKills(str(tmp_path))
    v2(tmp_path, 1)
    assert kills.verdict(WORKER, 1.0) is NO
    events = tmp_path / f"sys/fs/cgroup{OURS}/memory.events"
    events.unlink()
    assert kills.verdict(WORKER, 2.0) is NO
    v2(tmp_path, 2)
    assert kills.verdict(WORKER, 3.0) is YES
