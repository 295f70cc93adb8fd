"""The app's stdout and stderr, carried to the master without ever holding the app up.

Invariant: a write returns at once. What the pipe has no room for is dropped and counted on the board, and the next
line that fits starts on a line of its own.
"""

from __future__ import annotations

import io
import os
import sys

from supervisor.kernel.board import Cell, Row


class DroppingPipe(io.RawIOBase):
    """The write end of a non-blocking pipe as a raw stream that never fails for want of room."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._row: Row | None = None
        self._is_broken_line = False

    def begin(self, row: Row | None) -> None:
        """Another pipe lies behind the descriptor now; what it has no room for is counted on `row`."""
        os.set_blocking(self._fd, False)
        self._row = row
        self._is_broken_line = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: object, /) -> int:
        view = memoryview(data)  # type: ignore[arg-type]  # typeshed's buffer protocol is newer than 3.11
        size = view.nbytes
        try:
            if self._is_broken_line:
                os.write(self._fd, b"\n")
                self._is_broken_line = False
            sent = os.write(self._fd, view)
        except OSError:  # full, or nobody reads any more
            sent = 0
        if sent < size:
            self._is_broken_line = self._is_broken_line or sent > 0
            if self._row is not None:
                self._row[Cell.OUTPUT_DROPPED] += size - sent
        return size


_pipes = DroppingPipe(1), DroppingPipe(2)


def guard_standard_streams() -> None:
    """Make this process's stdout and stderr non-blocking pipes that drop, and `sys.stdout`, `sys.stderr` use them."""
    count_drops(None)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(pipe), encoding="utf-8", errors="backslashreplace", line_buffering=True)
        for pipe in _pipes
    )


def count_drops(row: Row | None) -> None:
    """Stdout and stderr, guarded before the fork, are pipes of this process's own now, and so is the count."""
    for pipe in _pipes:
        pipe.begin(row)
