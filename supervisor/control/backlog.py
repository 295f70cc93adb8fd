"""The lines that wait for one reader of events.

Invariant: the backlog is bounded. When it is full the oldest lines go, and the reader is told how many, in the place
where they would have been; the newest line is always kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MAX_LINES = 1000
MAX_BYTES = 256 * 1024


class Backlog:
    """Lines in, pieces out. `notice(count)` makes the line that stands for `count` lost ones."""

    def __init__(
        self, notice: Callable[[int], bytes], *, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES
    ) -> None:
        self._notice = notice
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def push(self, line: bytes) -> None:
        """Add the newest line, at the cost of the oldest ones when there is no room."""
        self._lines.append(line)
        self._bytes += len(line)
        while len(self._lines) > 1 and (len(self._lines) > self._max_lines or self._bytes > self._max_bytes):
            self._bytes -= len(self._lines.popleft())
            self._lost += 1

    def take(self, size: int) -> bytes:
        """The oldest whole lines, about `size` bytes of them; at least one if there is any."""
        piece = bytearray()
        if self._lost:
            piece += self._notice(self._lost)
            self._lost = 0
        while self._lines and len(piece) < size:
            line = self._lines.popleft()
            self._bytes -= len(line)
            piece += line
        return bytes(piece)
