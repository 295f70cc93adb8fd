"""Whether the kernel's OOM killer has killed: the counter of our memory cgroup, followed.

Invariant: each kill that the kernel has counted explains one death at most, and only one that it was counted for within
`FRESH` seconds; where there is no counter, nothing is said about it.

The kernel counts before it sends the signal, so whoever reaps the process finds it counted. Version 2 counts what
happens in the cgroup and below it, version 1 in the cgroup alone; workers live in the master's.

Sources: `oom_kill` in `memory.events` (Documentation/admin-guide/cgroup-v2.rst) and in `memory.oom_control`
(cgroup-v1/memory.rst; since Linux 4.13); cgroups(7).
"""

from __future__ import annotations

import os
from collections import deque

FRESH = 3.0  # seconds


class OomCounter:
    """`look` now and then, so that it is known when a kill was counted; `explains` when somebody has died."""

    def __init__(self, root: str = "") -> None:
        """`root` stands before /proc and /sys, for tests."""
        self._path = _counter(root)
        self._count = _read(self._path) if self._path else None
        self._kills: deque[float] = deque(maxlen=1000)  # when those were seen that explain nothing yet

    @property
    def is_there(self) -> bool:
        """Whether anything can be known."""
        return self._count is not None

    def look(self, now: float) -> None:
        """Note at monotonic time `now` what was counted since the last look."""
        if self._path is None or self._count is None:
            return
        count = _read(self._path)
        if count is not None:
            self._kills.extend([now] * min(1000, max(0, count - self._count)))
            self._count = count

    def explains(self, now: float) -> bool:
        """Whether a death by KILL that is found now was the OOM killer's; then it explains no other one."""
        self.look(now)
        while self._kills and now - self._kills[0] > FRESH:
            self._kills.popleft()
        if not self._kills:
            return False
        self._kills.popleft()
        return True


def _counter(root: str) -> str | None:
    """The file that counts for our cgroup, or for the lowest one above it that is mounted here."""
    try:
        with open(f"{root}/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    found = None
    for line in lines:
        _hierarchy, controllers, path = line.split(":", 2)
        if not controllers:
            candidate = _lowest(f"{root}/sys/fs/cgroup", path, "memory.events")
        elif "memory" in controllers.split(","):
            candidate = _lowest(f"{root}/sys/fs/cgroup/{controllers}", path, "memory.oom_control")
        else:
            continue
        found = candidate or found
    return found


def _lowest(mount: str, path: str, name: str) -> str | None:
    path = path.rstrip("/")
    while True:
        file = f"{mount}{path}/{name}"
        if _read(file) is not None:
            return file
        if not path:
            return None
        path = path.rpartition("/")[0]


def _read(path: str) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for line in os.read(fd, 4096).splitlines():
            name, _, value = line.partition(b" ")
            if name == b"oom_kill" and value.isdigit():
                return int(value)
    except OSError:
        return None
    finally:
        os.close(fd)
    return None
