"""Whether the kernel's OOM killer has killed somebody: its counters, followed.

Invariant: each kill that the kernel has counted explains one death at most, and only one that it was counted for within
`FRESH` seconds. That it was not the OOM killer is said only if it has killed nobody on the whole machine meanwhile.

The kernel counts before it sends the signal, so whoever reaps the process finds it counted: for the cgroup that the
process was in (version 2: and for those above) and for the machine. Most live in the master's cgroup; who has one of
its own is found by looks at /proc/PID/cgroup, and not from a dead one's: version 1 says `/` there. Who has moved since
the last look may have been killed or not, as far as we know.

Sources: `oom_kill` in `memory.events` (Documentation/admin-guide/cgroup-v2.rst), in `memory.oom_control`
(cgroup-v1/memory.rst) and in /proc/vmstat, all since Linux 4.13; cgroups(7).
"""

from __future__ import annotations

import enum
import heapq
from collections import deque
from collections.abc import Collection

FRESH = 3.0  # seconds
ASKED = 8  # processes a look, for their cgroup: 10 µs each


class Verdict(enum.Enum):
    """Whether a death by KILL was the OOM killer's."""

    YES = enum.auto()
    PERHAPS = enum.auto()  # it has killed somebody, in another cgroup than the one we know of
    NO = enum.auto()
    UNKNOWN = enum.auto()  # there are no counters


class OomCounter:
    """One counter: `look` now and then, so that it is known when a kill was counted."""

    def __init__(self, path: str | None) -> None:
        """Of a file with a line `oom_kill N`, from now on."""
        self._path = path
        self._count = _read(path) if path else None
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
        """Whether a kill was counted for a death that is found now; then it explains no other one."""
        self.look(now)
        while self._kills and now - self._kills[0] > FRESH:
            self._kills.popleft()
        if not self._kills:
            return False
        self._kills.popleft()
        return True


class OomKills:
    """What the counters tell: of our cgroup, of those that our processes have of their own, of the whole machine."""

    def __init__(self, root: str = "") -> None:
        """`root` stands before /proc and /sys, for tests."""
        self._root = root
        self._machine = OomCounter(f"{root}/proc/vmstat")
        self._ours = _counter(root, "self")
        self._counters = {self._ours: OomCounter(self._ours)}
        self._elsewhere: dict[int, str] = {}  # the counters of those who are not in our cgroup, by pid
        self._asked: dict[int, float] = {}  # when

    def look(self, now: float, pids: Collection[int]) -> None:
        """To be called each second, with all who may die: some are asked for their cgroup, new ones first."""
        self._asked = {pid: self._asked.get(pid, 0.0) for pid in pids}
        for pid in heapq.nsmallest(ASKED, self._asked, key=self._asked.__getitem__):
            self._asked[pid] = now
            self._ask(pid)
        self._elsewhere = {pid: path for pid, path in self._elsewhere.items() if pid in self._asked}
        followed = {self._ours, *self._elsewhere.values()}
        self._counters = {path: self._counters.get(path) or OomCounter(path) for path in followed}
        for counter in (self._machine, *self._counters.values()):
            counter.look(now)

    def verdict(self, pid: int, now: float) -> Verdict:
        """On a process of ours that is found dead of KILL at monotonic time `now`."""
        path = self._elsewhere.get(pid, self._ours)
        if self._counters[path].explains(now):
            if path != self._ours and _is_below(path, self._ours):
                self._counters[self._ours].explains(now)  # which has counted it, too
            self._machine.explains(now)
            return Verdict.YES
        if not self._machine.is_there:
            return Verdict.UNKNOWN
        return Verdict.PERHAPS if self._machine.explains(now) else Verdict.NO

    def _ask(self, pid: int) -> None:
        path = _counter(self._root, str(pid))
        if path == self._ours:
            self._elsewhere.pop(pid, None)
        elif path is not None:
            self._elsewhere[pid] = path


def _is_below(path: str | None, other: str | None) -> bool:
    """Whether one file's cgroup, of version 2, is below the other's."""
    if path is None or other is None or not other.endswith("/memory.events"):
        return False
    return path.startswith(other.removesuffix("memory.events"))


def _counter(root: str, pid: str) -> str | None:
    """The file that counts for a process's cgroup, or for the lowest one above it that is mounted here."""
    try:
        with open(f"{root}/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    found = None
    for line in lines:
        _hierarchy, controllers, path = line.split(":", 2)
        if not controllers:
            candidate = _lowest(f"{root}/sys/fs/cgroup", path, "memory.events")
        elif "memory" in controllers.split(",") and (path != "/" or pid == "self"):  # else it may be dead
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
        with open(path, "rb", buffering=0) as file:
            text = b"".join(iter(lambda: file.read(16384), b""))
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(b" ")
        if name == b"oom_kill" and value.isdigit():
            return int(value)
    return None
