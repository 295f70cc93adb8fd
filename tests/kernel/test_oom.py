"""What the kernel's counter of OOM kills explains, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.kernel.oom import FRESH, OomCounter


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def v2(root: Path, count: int, group: str = "/system.slice/shop.service") -> None:
    write(root / "proc/self/cgroup", f"0::{group}\n")
    write(root / f"sys/fs/cgroup{group}/memory.events", f"low 0\nhigh 0\nmax 7\noom {count}\noom_kill {count}\n")


def v1(root: Path, count: int) -> None:
    write(root / "proc/self/cgroup", "9:name=systemd:/x\n4:memory:/docker/abc\n0::/\n")
    write(root / "sys/fs/cgroup/memory/memory.oom_control", f"oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n")


@pytest.mark.parametrize("count", [v2, v1])
def test_a_kill_that_was_counted_explains_one_death(tmp_path: Path, count: Callable[[Path, int], None]) -> None:
    count(tmp_path, 3)
    counter = OomCounter(str(tmp_path))
    assert counter.is_there
    assert not counter.explains(1.0), "what was counted before is not ours"
    count(tmp_path, 4)
    assert counter.explains(2.0)
    assert not counter.explains(2.0)


def test_two_kills_explain_two_deaths(tmp_path: Path) -> None:
    v2(tmp_path, 0)
    counter = OomCounter(str(tmp_path))
    v2(tmp_path, 2)
    assert [counter.explains(1.0) for _ in range(3)] == [True, True, False]


def test_a_kill_counted_a_moment_before_the_death_is_seen_explains_it(tmp_path: Path) -> None:
    v2(tmp_path, 0)
    counter = OomCounter(str(tmp_path))
    v2(tmp_path, 1)
    counter.look(10.0)
    assert counter.explains(10.5)


def test_an_old_kill_of_somebody_else_explains_nothing(tmp_path: Path) -> None:
    v2(tmp_path, 0)
    counter = OomCounter(str(tmp_path))
    v2(tmp_path, 1)
    counter.look(10.0)
    assert not counter.explains(10.0 + FRESH + 0.1)


@pytest.mark.parametrize("text", [None, "", "oom_kill\n", "oom_kill x\n", "low 0\n"])
def test_without_a_counter_nothing_is_explained(tmp_path: Path, text: str | None) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/a\n")
    if text is not None:
        write(tmp_path / "sys/fs/cgroup/a/memory.events", text)
    counter = OomCounter(str(tmp_path))
    assert not counter.is_there
    assert not counter.explains(1.0)


def test_a_counter_that_goes_away_or_back_is_no_kill(tmp_path: Path) -> None:
    v2(tmp_path, 5)
    counter = OomCounter(str(tmp_path))
    v2(tmp_path, 1)
    assert not counter.explains(1.0)
    (tmp_path / "sys/fs/cgroup/system.slice/shop.service/memory.events").unlink()
    assert not counter.explains(2.0)
    v2(tmp_path, 2)
    assert counter.explains(3.0)
