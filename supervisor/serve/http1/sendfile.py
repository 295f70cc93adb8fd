"""Files as bodies: by sendfile(2), so that their bytes never enter this process, or read and written where that can't
be (TLS, a file system without it).

Invariant: every descriptor in here is a duplicate of its own, and closed once. A `FilePart` owns its file's, so whoever
opened the file may close it; a `FileSender` owns its socket's, since a loop watches no descriptor that a transport has.
Disk is read in the event loop, at most `_TURN` bytes a turn, as the kernel reads ahead of a client.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from supervisor.serve.http1.outgoing import Outgoing

_TURN = 512 * 1024  # bytes of a file sent in one turn of the loop
PIECE = 128 * 1024  # bytes of a file that are in memory at once, where they have to be


class FilePart:
    """`size` bytes of a regular file from `offset` on. Whoever holds it sends it, reads it or closes it."""

    __slots__ = ("fd", "offset", "size")

    def __init__(self, fd: int, offset: int, size: int) -> None:
        """Takes `fd` over."""
        self.fd = fd
        self.offset = offset
        self.size = size

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """The whole of the file at `path`. Raises `OSError`, also for what is no regular file."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a FIFO must not wait for its writer
        try:
            return cls(fd, 0, _size(fd))
        except OSError:
            os.close(fd)
            raise

    @classmethod
    def rest(cls, fd: int, offset: int) -> Self:
        """What a file has from `offset` on; `fd` stays the caller's. Raises `OSError`, as `open` does, and for a file
        without a size, which only reading proves to be empty: the kernel's own (`/proc`) have text and no size."""
        size = _size(fd)
        if not size:
            raise OSError("a file without a size")
        return cls(os.dup(fd), offset, max(0, size - offset))

    def read(self) -> bytes:
        """All of it, less if the file has shrunk, at once; closes it. Raises `OSError`."""
        try:
            return os.pread(self.fd, self.size, self.offset)
        finally:
            self.close()

    def piece(self) -> bytes:
        """The next `PIECE` bytes, fewer at its end, whatever its size is said to be. Raises `OSError`."""
        data = bytearray()
        while len(data) < PIECE and (block := os.pread(self.fd, PIECE - len(data), self.offset)):
            data += block
            self.offset += len(block)
        return bytes(data)

    def close(self) -> None:
        """Let go of the file. Harmless when that was done."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _size(fd: int) -> int:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    return status.st_size


class FileSender:
    """Sends one `FilePart` through a connection that writes nothing else meanwhile and has `write_paused` set.

    It calls the connection's `resume_writing` when the kernel has taken the last byte, and `failed` with a few words
    when the file can't be read to the end that was promised. A client that goes ends the transport, as ever.
    """

    __slots__ = ("_copies", "_failed", "_loop", "_out", "_part", "_socket")

    def __init__(
        self, out: Outgoing, part: FilePart, loop: asyncio.AbstractEventLoop, failed: Callable[[str], None]
    ) -> None:
        self._out = out
        self._part = part
        self._loop = loop
        self._failed = failed
        self._copies = out.transport.get_extra_info("ssl_object") is not None
        self._socket = -1  # watched for writability, once that was needed

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken."""
        return self._part.size

    def go_on(self) -> None:
        """Send as much as there is room for. Called at first when all that was written before is out."""
        part = self._part
        if part.fd < 0 or self._out.transport.is_closing():
            return
        try:
            while part.size and not self._copies:
                if not self._send(part):
                    return
            if part.size and not self._copy(part):
                return
        except ConnectionError:
            self.close()
            self._out.transport.abort()
            return
        except OSError as error:
            self.close()
            self._failed(f"the file can't be read: {error.strerror or error}")
            return
        self.close()
        self._out.file = None
        self._out.resume_writing()

    def close(self) -> None:
        """Stop, and let go of file and socket."""
        self._part.close()
        fd, self._socket = self._socket, -1
        if fd >= 0:
            self._loop.remove_writer(fd)
            os.close(fd)

    def _send(self, part: FilePart) -> bool:
        """One sendfile(2); False when its room was used up, and there will be more."""
        fd = self._socket if self._socket >= 0 else self._out.transport.get_extra_info("socket").fileno()
        try:
            count = os.sendfile(fd, part.fd, part.offset, min(part.size, _TURN))
        except BlockingIOError:
            return self._watch()
        except ConnectionError:
            raise
        except OSError:  # this file system has none, or reading fails, which copying will tell apart
            self._copies = True
            return True
        self._advance(part, count)
        return not part.size or self._watch()

    def _watch(self) -> bool:
        """Be called when there is room; True when that can't be, and copying has to do."""
        if self._socket >= 0:
            return False
        try:
            self._socket = os.dup(self._out.transport.get_extra_info("socket").fileno())
        except OSError:  # out of descriptors
            self._copies = True
            return True
        self._loop.add_writer(self._socket, self.go_on)
        return False

    def _copy(self, part: FilePart) -> bool:
        """One piece through the transport; False when more will follow."""
        out = self._out
        if self._socket >= 0:
            self._loop.remove_writer(self._socket)
        piece = os.pread(part.fd, min(part.size, PIECE), part.offset)
        self._advance(part, len(piece))
        out.write_paused = False
        out.transport.write(piece)
        if out.write_paused:
            return False  # resume_writing calls again, also after the last piece
        out.write_paused = True
        if part.size:
            self._loop.call_soon(self.go_on)
        return not part.size

    @staticmethod
    def _advance(part: FilePart, count: int) -> None:
        if not count:
            raise OSError(f"it ends {part.size} bytes early")
        part.offset += count
        part.size -= count
