"""A request's body on its way from the event loop to the WSGI app, gathered first or streamed to its thread.

Invariants. `Gathered` keeps at most `bound` bytes in memory. In an `Upload` wait at most `bound` bytes and one read
of the socket: the loop stops reading from the client above that, the thread has it read on below; each side looks again
after it has changed its number, so neither waits for a wake-up that has already been.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING

from supervisor.serve.faults import ClientDisconnectedError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from supervisor.serve.http1.connection import Connection


class Gathered:
    """A body that is complete before the app is called, in memory or, above `bound` bytes, in a temporary file."""

    def __init__(self, bound: int) -> None:
        self.size = 0
        self.pieces: list[bytes] = []
        self._bound = bound
        self._file: IO[bytes] | None = None

    def add(self, data: bytes, *, done: bool) -> None:
        """More of the body; `done` with the last of it. Raises `OSError` when the file takes no more."""
        self.size += len(data)
        if self._file is None and self.size > self._bound:
            self._file = tempfile.TemporaryFile(prefix="holdfast-body-")  # noqa: SIM115  (closed by `close`)
            self._file.writelines(self.pieces)
            self.pieces.clear()
        if self._file is None:
            self.pieces.append(data)
        else:
            self._file.write(data)
            if done:
                self._file.flush()

    def open(self) -> IO[bytes]:
        """The body as a file at its start."""
        if self._file is None:
            return io.BytesIO(b"".join(self.pieces))
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        """Let go of it."""
        self.pieces.clear()
        if self._file is not None:
            with contextlib.suppress(OSError):  # what it had no room for
                self._file.close()


class Upload(io.RawIOBase):
    """Fed by the loop, read by one thread, usually through `io.BufferedReader`."""

    def __init__(self, connection: Connection, bound: int, ask: Callable[[], None] | None) -> None:
        """`ask` is called in the loop, once, when the body is first wanted (100 Continue)."""
        self._connection = connection
        self._call = connection.service.loop.call_soon_threadsafe
        self._bound = bound
        self._ask = ask
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._fed = 0
        self._taken = 0
        self._paused = False
        self._piece = memoryview(b"")
        self._complete = False
        self._waits = False

    @property
    def taken(self) -> int:
        """Bytes that the thread has had."""
        return self._taken

    @property
    def is_hungry(self) -> bool:
        """The thread waits for the client to send something."""
        return self._waits

    # In the loop.

    def feed(self, data: bytes, done: bool) -> None:
        """More of the body."""
        if data:
            self._ask = None  # the client has not waited
            self._fed += len(data)
            self._queue.put(data)
        if done:
            self._queue.put(b"")
        elif self._fed - self._taken > self._bound:
            self._paused = True
            self._connection.pause_reading()
            self._resume()

    def lost(self) -> None:
        """No more of it will come."""
        self._queue.put(None)

    def _resume(self) -> None:
        if self._paused and self._fed - self._taken <= self._bound:
            self._paused = False
            self._connection.resume_reading()

    # In the thread.

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        """Wait for the next piece; 0 at the end. Raises `ClientDisconnectedError` when the client goes before."""
        if not self._piece and not self._complete:
            self._next()
        target = memoryview(buffer)
        count = min(len(target), len(self._piece))
        target[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def _next(self) -> None:
        ask, self._ask = self._ask, None
        if ask is not None:
            self._call(ask)
        self._waits = True
        piece = self._queue.get()
        self._waits = False
        if piece is None:
            self._queue.put(None)  # for whoever reads again
            raise ClientDisconnectedError("the client went before the end of its body")
        if not piece:
            self._complete = True
        self._piece = memoryview(piece)
        self._taken += len(piece)
        if self._paused and self._fed - self._taken <= self._bound:
            self._call(self._resume)
