"""Processes: watched and signalled through pidfds, reaped exactly once, adopted when their parent dies.

Invariant: nothing here acts on a bare pid that may have been reused. A pidfd names one process for ever, so a signal
reaches that process or nobody, and its exit status is taken by the one reader of its pidfd.

Sources: pidfd_open(2), pidfd_send_signal(2), waitid(2), prctl(2) (PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
from collections.abc import Collection, Container, Mapping, Sequence
from typing import NoReturn

import msgspec

from supervisor.errors import SurroundingsError

UNKNOWN = "exit status unknown: adopted"
"""How a process ended that was not our child: only its parent is told more."""

_PR_SET_CHILD_SUBREAPER = 36


class Ended(msgspec.Struct, frozen=True):
    """How a process ended: by an exit code or by a signal; both None when it was not our child."""

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
        return UNKNOWN


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


def execute_again(arguments: Sequence[str], environment: Mapping[str, str], fds: Collection[int]) -> NoReturn:
    """Become another Python program, in this process: 0, 1, 2 and `fds` cross. Raises `OSError`, with all as it was.

    Signals are held back from here on, until `let_signals_in` there.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        for fd in fds:
            os.set_inheritable(fd, True)
        os.execve(sys.executable, [sys.executable, *arguments], environment)  # noqa: S606  # no shell on purpose
    except OSError:
        for fd in fds:
            os.set_inheritable(fd, False)
        let_signals_in()
        raise


def hold_back_stops() -> None:
    """Keep signals that ask for a stop until `let_signals_in`: a pid 1 without a handler would never see them.

    Source: pid_namespaces(7), on the init process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))


def let_signals_in() -> None:
    """Take what has come meanwhile: the handlers are in place."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


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


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _ended(result: os.waitid_result) -> Ended:
    if result.si_code == os.CLD_EXITED:
        return Ended(pid=result.si_pid, code=result.si_status, signal=None)
    return Ended(pid=result.si_pid, code=None, signal=result.si_status, dumped=result.si_code == os.CLD_DUMPED)
