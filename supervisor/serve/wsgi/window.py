"""How far a WSGI app's thread may be ahead of its client.

Invariant: at most `bound` bytes and one piece of an answer are on their way through the event loop; above that the
thread waits. Each side looks again after it has changed its number, so no wake-up is missed.
"""

from __future__ import annotations

from _thread import LockType, allocate_lock


class Window:
    """Counts what one thread hands to the loop, and what of it the kernel has taken."""

    __slots__ = ("_bound", "_closed", "_given", "_room", "_taken", "_written")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._given = self._written = self._taken = 0
        self._closed = False
        self._room: LockType | None = None

    @property
    def is_shut(self) -> bool:
        """The thread waits for the client to take something."""
        return self._room is not None

    # In the thread.

    def give(self, size: int) -> None:
        """`size` more bytes were handed to the loop. Waits while they are too many."""
        self._given += size
        while self._is_full():
            room = allocate_lock()
            room.acquire()
            self._room = room
            if self._is_full():
                room.acquire()

    def _is_full(self) -> bool:
        return self._given - self._taken > self._bound and not self._closed

    # In the loop.

    def wrote(self, size: int) -> None:
        """`size` more bytes were written; `opened` tells when the kernel has all of them."""
        self._written += size

    def opened(self) -> None:
        """The kernel has all that was written."""
        self._taken = self._written
        self._wake()

    def close(self) -> None:
        """The client has gone: nobody is waited for any more."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.release()
