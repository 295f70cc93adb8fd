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

    def __init__(self, fd: int, row: Row | None) -> None:
        self._fd = fd
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


def guard_standard_streams(row: Row | None = None) -> None:
    """Make this process's stdout and stderr non-blocking pipes that drop, and `sys.stdout`, `sys.stderr` use them."""
    for fd in (1, 2):
        os.set_blocking(fd, False)
    sys.stdout = _text(1, row)
    sys.stderr = _text(2, row)


def _text(fd: int, row: Row | None) -> io.TextIOWrapper:
    pipe = io.BufferedWriter(DroppingPipe(fd, row))
    return io.TextIOWrapper(pipe, encoding="utf-8", errors="backslashreplace", line_buffering=True)
