"""The access log's file as the master holds it: opened here, written by the workers.

Invariant: workers write through a description of their own that never blocks where the file allows it, and the one
that the operator gave us (a terminal shared with a shell) is left as it is.
"""

from __future__ import annotations

import os
import stat

from supervisor.errors import SurroundingsError

MODE = 0o640  # clients' addresses are nobody else's business


class AccessFile:
    """One file at a time. `-` is stdout."""

    def __init__(self) -> None:
        self._path: str | None = None
        self._fd: int | None = None

    def open(self, path: str | None) -> None:
        """Open `path` if it is another one than before. Raises `SurroundingsError` and then keeps what was open."""
        if path != self._path:
            fd = _open(path) if path is not None else None
            self.close()
            self._path, self._fd = path, fd

    def fd_of(self, path: str | None) -> int | None:
        """The descriptor for a worker whose release logs to `path`."""
        return self._fd if path is not None else None

    def reopen(self) -> int | None:
        """Open the same path anew, as after a log rotation; None when there is nothing to reopen."""
        if self._path is None or self._path == "-":
            return None
        fd = _open(self._path)
        self.close()
        self._fd = fd
        return fd

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
    try:
        if path != "-":
            return os.open(path, flags | os.O_CREAT, MODE)
        if stat.S_ISREG(os.fstat(1).st_mode):
            return os.dup(1)  # the offset must stay shared with the supervisor's own lines in the same file
        try:
            return os.open("/proc/self/fd/1", flags | os.O_NONBLOCK)
        except OSError:  # a socket (journald's), or a pipe of another user: it can only be shared
            return os.dup(1)
    except OSError as error:
        raise SurroundingsError(f"access log {path}: {error.strerror}") from None
