"""Processes: watched and signalled through pidfds, reaped exactly once, adopted when their parent dies.

Invariant: nothing here acts on a bare pid that may have been reused. A pidfd names one process for ever, so a signal
reaches that process or nobody, and its exit status is taken by the one reader of its pidfd.

Sources: pidfd_open(2), pidfd_send_signal(2), waitid(2), prctl(2) (PR_SET_CHILD_SUBREAPER), sched_getaffinity(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import signal
from collections.abc import Container, Iterator, Mapping, Sequence

import msgspec

from supervisor.errors import SurroundingsError

_PR_SET_CHILD_SUBREAPER = 36


class Ended(msgspec.Struct, frozen=True):
    """How a process ended: by an exit code or by a signal; both None when another process took its status."""

    pid: int
    code: int | None
    signal: int | None
    dumped: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether it left by itself with exit code 0."""
        return self.code == 0

    def __str__(self) -> str:
        """For a person: "exit code 3", "killed by SIGSEGV (core dumped)"."""
        if self.signal is not None:
            return f"killed by {signal_name(self.signal)}" + (" (core dumped)" if self.dumped else "")
        if self.code is not None:
            return f"exit code {self.code}"
        return "ended, with its exit status taken by another process"


def spawn(command: Sequence[str], environment: Mapping[str, str], fds: Sequence[int]) -> int:
    """Start a process in a session of its own; returns its pid. Raises `OSError`.

    `fds` become its 1, 2, 3 and so on, its 0 is /dev/null, and nothing else crosses.
    """
    # posix_spawn's dup2 clears close-on-exec only if the numbers differ: keep the sources out of the way.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in fds]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(high, 1)),
    ]
    try:
        return os.posix_spawn(command[0], list(command), environment, file_actions=actions, setsid=True)
    finally:
        for fd in high:
            os.close(fd)


def signal_name(number: int) -> str:
    """`SIGTERM` for 15; a real-time signal that has no name of its own is `signal 40`."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def open_pidfd(pid: int) -> int:
    """A close-on-exec descriptor that is readable once `pid` has ended, and stays so until it is closed.

    Raises `ProcessLookupError` when there is no such process; one that has ended but is not reaped still counts.
    """
    return os.pidfd_open(pid)


def reap(pidfd: int) -> Ended | None:
    """Take the exit status of the child behind `pidfd`; None while it runs. The pidfd stays open.

    A process that ended without being (or still being) our child gives an `Ended` that knows neither pid nor status.
    """
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return Ended(pid=0, code=None, signal=None) if _has_ended(pidfd) else None
    return _ended(result) if result else None


def reap_orphans(known: Container[int]) -> list[Ended]:
    """Reap ended children that nobody watches: what dead spawners and workers left to us, their subreaper.

    Stops at the first ended child in `known` and leaves it to the reader of its pidfd: the kernel shows one ended
    child at a time, so call this again after that `reap`.
    """
    reaped: list[Ended] = []
    with contextlib.suppress(ChildProcessError):  # no children at all
        while peeked := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if peeked.si_pid in known:
                break
            # An ended, unreaped child keeps its pid: this takes the very one that was peeked at.
            if result := os.waitid(os.P_PID, peeked.si_pid, os.WEXITED | os.WNOHANG):
                reaped.append(_ended(result))
    return reaped


def send_signal(pidfd: int, number: int) -> bool:
    """Signal the process behind `pidfd`. False when it has ended. Raises `PermissionError` when it is not ours."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def become_subreaper() -> None:
    """Make orphaned descendants our children, so that a spawner's workers stay ours when the spawner dies.

    Holds for this process and across execve, not for its children. Raises `SurroundingsError` when refused.
    """
    import ctypes  # 0.5 MB that only the master pays, and only here

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise SurroundingsError(f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(ctypes.get_errno())}")


def available_cpus() -> int:
    """CPUs' worth of time this process may use, at least 1: its affinity, bounded by its cgroups' quotas.

    A quota of one and a half CPUs counts as two, as the JVM and Go count it.
    """
    return _bounded_cpus(len(os.sched_getaffinity(0)), root="")


def _bounded_cpus(affinity: int, root: str) -> int:
    quotas = [math.ceil(quota) for quota in _cpu_quotas(root)]
    return max(1, min([affinity, *quotas]))


def _cpu_quotas(root: str) -> Iterator[float]:
    """Every limit set on this process' cgroups and those above, in CPUs. cgroups(7); cgroup v2's `cpu.max`, v1's CFS.

    Inside a container the path may be the host's, which is not mounted: the climb to the mount's top finds ours.
    """
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        _hierarchy, controllers, path = line.split(":", 2)
        if not controllers:
            mount, quota_of = f"{root}/sys/fs/cgroup", _v2_quota
        elif "cpu" in controllers.split(","):
            mount, quota_of = f"{root}/sys/fs/cgroup/{controllers}", _v1_quota
        else:
            continue
        for group in _upwards(path):
            quota = quota_of(mount + group)
            if quota is not None:
                yield quota


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


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _ended(result: os.waitid_result) -> Ended:
    if result.si_code == os.CLD_EXITED:
        return Ended(pid=result.si_pid, code=result.si_status, signal=None)
    return Ended(pid=result.si_pid, code=None, signal=result.si_status, dumped=result.si_code == os.CLD_DUMPED)
