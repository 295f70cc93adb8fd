"""What takes long to make, made a little at a time.

Invariant: one `take` lasts SLICE seconds, and the making of the one piece that is under way when they are over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

SLICE = 0.0005  # seconds


class Slices:
    """`pieces`, each made when its turn comes; `clock` is in seconds. True until the last one is taken."""

    def __init__(self, pieces: Iterator[bytes], clock: Callable[[], float]) -> None:
        self._pieces = pieces
        self._clock = clock
        self._is_over = False

    def __bool__(self) -> bool:
        return not self._is_over

    def take(self, size: int | None = None) -> bytes:
        """Some more of them, about `size` bytes at most; nothing when it is over. Raises what making them raises."""
        taken = bytearray()
        ends = self._clock() + SLICE
        for piece in self._pieces:
            taken += piece
            if self._clock() >= ends or (size is not None and len(taken) >= size):
                return bytes(taken)
        self._is_over = True
        return bytes(taken)
