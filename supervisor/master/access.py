"""The access logs as the master holds them: opened here, written by the workers.

Invariants:
- Workers write through a description of their own that never blocks where the file allows it, and the one that the
  operator gave us (a terminal shared with a shell) is left as it is.
- During a roll both releases have the log that their own settings name.
"""

from __future__ import annotations

import os
import stat

from supervisor.errors import SurroundingsError

MODE = 0o640  # clients' addresses are nobody else's business
STDOUT = "-"


class AccessFiles:
    """Open files by path. `-` is stdout; None, no log."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def state(self) -> dict[str, int]:
        """The open files' descriptors, by path."""
        return dict(self._open)

    def resume(self, kept: dict[str, int]) -> None:
        """Go on with the open files of an earlier master."""
        for fd in kept.values():
            os.set_inheritable(fd, False)
        self._open |= kept

    def ensure(self, path: str | None) -> None:
        """Open `path` unless it is open. Raises `SurroundingsError`."""
        if path is not None and path not in self._open:
            self._open[path] = _open(path)

    def fd_of(self, path: str | None) -> int | None:
        """The descriptor for a worker whose release logs to `path`."""
        return self._open.get(path) if path is not None else None

    def reopen(self) -> None:
        """Open the same paths anew, as after a log rotation. Raises `SurroundingsError` and then keeps what it had."""
        for path in self._open.keys() - {STDOUT}:
            fd = _open(path)
            os.close(self._open[path])
            self._open[path] = fd

    def keep_only(self, path: str | None) -> None:
        """Close all others."""
        for other in self._open.keys() - {path}:
            os.close(self._open.pop(other))

    def close(self) -> None:
        self.keep_only(None)


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
    try:
        if path != STDOUT:
            return os.open(path, flags | os.O_CREAT | os.O_NONBLOCK, MODE)  # a fifo without a reader is an error
        if stat.S_ISREG(os.fstat(1).st_mode):
            return os.dup(1)  # the offset must stay shared with the supervisor's own lines in the same file
        try:
            return os.open("/proc/self/fd/1", flags | os.O_NONBLOCK)
        except OSError:  # a socket (journald's), or a pipe of another user: it can only be shared
            return os.dup(1)
    except OSError as error:
        raise SurroundingsError(f"access log {path}: {error.strerror}") from None
