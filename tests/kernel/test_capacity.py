"""What a made-up machine lets a process use."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.kernel import capacity
from tests.kernel.conftest import in_python

GB = 2**30
MEMINFO = {"proc/meminfo": "MemFree:        1 kB\nMemTotal:       16777216 kB\n"}
UNLIMITED = "9223372036854771712\n"  # what v1 says of a group without a limit


def test_available_cpus_is_bounded_by_the_affinity() -> None:
    script = "import json, os; from supervisor.kernel.capacity import available_cpus\n"
    script += "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(json.dumps(available_cpus()))"
    assert in_python(script) == 1


def cgroups(root: Path, listing: str, files: dict[str, str]) -> str:
    """A made-up root directory with this process' cgroups in it."""
    for name, text in {"proc/self/cgroup": listing, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("listing", "files", "expected"),
    [
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "200000 100000\n"}, 2),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 2),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "10000 100000\n"}, 1),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 8),
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "300000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 3),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        ("0::/host/path\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        (
            "5:cpu,cpuacct:/x\n0::/\n",
            {
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            "5:cpu:/docker/123\n",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            1,
        ),
        (
            "5:cpu:/\n",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        ("3:cpuset:/\n", {}, 8),
        ("", {}, 8),
    ],
)
def test_available_cpus_is_bounded_by_every_cgroup_above(
    tmp_path: Path, listing: str, files: dict[str, str], expected: int
) -> None:
    assert capacity._bounded_cpus(8, cgroups(tmp_path, listing, files)) == expected


@pytest.mark.parametrize(
    ("listing", "files", "expected"),
    [
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": f"{2 * GB}\n"}, 2 * GB),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": f"{3 * GB}\n"}, 3 * GB),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": f"{4 * GB}", "sys/fs/cgroup/a/memory.max": f"{3 * GB}"}, 3 * GB),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "max\n"}, 16 * GB),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": f"{64 * GB}\n"}, 16 * GB),
        ("0::/host/path\n", {"sys/fs/cgroup/memory.max": f"{GB}\n"}, GB),
        ("4:memory:/x\n0::/\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{GB}\n"}, GB),
        ("4:memory:/x\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GB}\n"}, 2 * GB),
        ("4:memory:/x\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": UNLIMITED}, 16 * GB),
        ("3:cpuset:/\n", {}, 16 * GB),
        ("", {}, 16 * GB),
    ],
)
def test_available_memory_is_bounded_by_every_cgroup_above(
    tmp_path: Path, listing: str, files: dict[str, str], expected: int
) -> None:
    assert capacity._bounded_memory(cgroups(tmp_path, listing, MEMINFO | files)) == expected


def test_available_memory_of_this_machine_is_no_more_than_it_has() -> None:
    assert 2**20 < capacity.available_memory() <= capacity._installed("")
