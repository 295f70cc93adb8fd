"""How much of the machine this process may use: CPUs and memory, as far as its cgroups let it.

Invariant: a limit that can't be read is no limit, never an error; what is returned is never more than the machine has.

Sources: cgroups(7); cgroup v2's `cpu.max` and `memory.max`, v1's CFS quota and `memory.limit_in_bytes`
(Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst); sched_getaffinity(2); proc_meminfo(5).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator


def available_cpus() -> int:
    """CPUs' worth of time this process may use, at least 1: its affinity, bounded by its cgroups' quotas.

    A quota of one and a half CPUs counts as two, as the JVM and Go count it.
    """
    return _bounded_cpus(len(os.sched_getaffinity(0)), root="")


def available_memory() -> int:
    """Bytes that this process and its children may hold: the machine's memory, bounded by its cgroups' limits."""
    return _bounded_memory(root="")


def _bounded_cpus(affinity: int, root: str) -> int:
    quotas = [math.ceil(quota) for quota in _limits(root, "cpu", _v2_quota, _v1_quota)]
    return max(1, min([affinity, *quotas]))


def _bounded_memory(root: str) -> int:
    return int(min([_installed(root), *_limits(root, "memory", _v2_memory, _v1_memory)]))


Reader = Callable[[str], float | None]


def _limits(root: str, controller: str, v2: Reader, v1: Reader) -> Iterator[float]:
    """Every limit set on this process' cgroups and those above.

    Inside a container the path may be the host's, which is not mounted: the climb to the mount's top finds ours.
    """
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        _hierarchy, controllers, path = line.split(":", 2)
        if not controllers:
            mount, limit_of = f"{root}/sys/fs/cgroup", v2
        elif controller in controllers.split(","):
            mount, limit_of = f"{root}/sys/fs/cgroup/{controllers}", v1
        else:
            continue
        for group in _upwards(path):
            limit = limit_of(mount + group)
            if limit is not None:
                yield limit


def _upwards(path: str) -> Iterator[str]:
    """`/a/b`, then `/a`, then the empty path."""
    path = path.rstrip("/")
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield ""


def _v2_quota(group: str) -> float | None:
    quota, _, period = _read(f"{group}/cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() else None


def _v1_quota(group: str) -> float | None:
    quota, period = _read(f"{group}/cpu.cfs_quota_us"), _read(f"{group}/cpu.cfs_period_us")
    return int(quota) / int(period) if quota.strip().isdigit() and period else None


def _v2_memory(group: str) -> int | None:
    return _bytes(f"{group}/memory.max")


def _v1_memory(group: str) -> int | None:
    return _bytes(f"{group}/memory.limit_in_bytes")  # without a limit more than any machine has


def _bytes(path: str) -> int | None:
    """`max` is no limit; nor is 0, under which nobody could read this."""
    text = _read(path).strip()
    return int(text) or None if text.isdigit() else None


def _installed(root: str) -> float:
    """The machine's memory in bytes."""
    for line in _read(f"{root}/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
