"""The master's own stdout and stderr, written so that no reader of theirs can ever make the master wait.

Invariant: `write` never blocks, and what comes out is whole lines in the order they came in. When the reader is too
slow the oldest waiting lines go, are counted, and the count stands in their place.

O_NONBLOCK belongs to the open file description, which stdout shares with the shell, with stderr and with every other
process of the terminal, so it is never set on the descriptor we were given. A pipe or a terminal is opened once more
through /proc/self/fd, a socket (journald's) takes the flag with every send, and a regular file never blocks. What
can't be opened again, such as a pipe made by another user, is asked by poll(2) before each write of at most PIPE_BUF.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable

from supervisor.kernel.reactor import Reactor

LIMIT = 1024 * 1024  # bytes that wait for a slow reader, besides one chunk on its way
_CHUNK = 64 * 1024

Door = tuple[int, Callable[[bytes], int], Callable[[], None]]  # a descriptor, how to write to it, how to close it


class Sink:
    """A queue of lines in front of one descriptor. `name` is what people call it: `stdout`."""

    def __init__(self, reactor: Reactor, fd: int, name: str, *, limit: int = LIMIT) -> None:
        self.name = name
        self.notice: Callable[[str], bytes] = _plain_notice  # how "12 lines dropped: .." becomes a line
        self.is_tty = os.isatty(fd)
        self._reactor = reactor
        self._fd, self._write, self._close = _open_again(fd)
        self._limit = limit
        self._lines: deque[bytes] = deque()
        self._waiting = 0  # bytes in _lines
        self._chunk = b""  # taken from _lines, perhaps written in part
        self._is_blocked = False
        self._dropped = 0  # lines lost since the last notice
        self._told = 0  # lines that the notice in _chunk tells of; 0 when _chunk holds lines
        self._why = ""

    @property
    def wants_colour(self) -> bool:
        """A terminal that shows colours to somebody who has not asked for none (https://no-color.org)."""
        return self.is_tty and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def write(self, line: bytes) -> None:
        """Queue one whole line, its newline included; most often it is written at once."""
        self._lines.append(line)
        self._waiting += len(line)
        while self._waiting > self._limit:
            self._waiting -= len(self._lines.popleft())
            self._count_dropped(1, f"the reader of {self.name} is too slow")
        self._write_out()

    def unwritten(self) -> bytes:
        """What waits to be written, as bytes for `write_first` of a sink that goes on from here."""
        if self._dropped:
            notice = self.notice(f"{self._dropped} lines dropped: {self._why}")
            return b"".join([self._chunk, notice, *self._lines])
        return b"".join([self._chunk, *self._lines])

    def write_first(self, data: bytes) -> None:
        """Write this before anything else; it may begin in the middle of a line."""
        self._chunk = data + self._chunk
        self._write_out()

    def close(self, timeout: float = 1.0) -> None:
        """Write what waits, for at most `timeout` seconds, and close our own descriptor, not the one given."""
        if self._fd < 0:
            return
        self._unblock()
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        deadline = time.monotonic() + timeout
        while not self._flush() and (left := deadline - time.monotonic()) > 0:
            poll.poll(left * 1000)
        self._close()
        self._fd, self._write = -1, len

    def _write_out(self) -> None:
        if not self._is_blocked and not self._flush():
            self._is_blocked = True
            self._reactor.add_writer(self._fd, self._on_writable)

    def _on_writable(self) -> None:
        if self._flush():
            self._unblock()

    def _unblock(self) -> None:
        if self._is_blocked:
            self._is_blocked = False
            self._reactor.remove_writer(self._fd)

    def _flush(self) -> bool:
        """Write until nothing waits (True) or the descriptor takes no more (False)."""
        while self._chunk or self._take_chunk():
            try:
                self._chunk = self._chunk[self._write(self._chunk) :]
            except BlockingIOError:
                return False
            except OSError as error:  # a full disk, a reader that went away: what waits is lost, later lines may not be
                lost = (self._told or self._chunk.count(b"\n")) + len(self._lines)
                self._count_dropped(lost, f"{self.name}: {error.strerror}")
                self._chunk, self._waiting = b"", 0
                self._lines.clear()
        return True

    def _take_chunk(self) -> bool:
        """Make the next chunk: the notice of a gap, or else as many waiting lines as fit. False when none wait."""
        if not self._lines:
            return False
        self._told, self._dropped = self._dropped, 0
        if self._told:
            lines = f"{self._told} line{'s' * (self._told > 1)}"
            self._chunk = self.notice(f"{lines} dropped: {self._why}")
            return True
        taken: list[bytes] = []
        room = _CHUNK
        while self._lines and room > 0:
            taken.append(self._lines.popleft())
            room -= len(taken[-1])
            self._waiting -= len(taken[-1])
        self._chunk = b"".join(taken)
        return True

    def _count_dropped(self, lines: int, why: str) -> None:
        self._dropped += lines
        self._why = why


def _open_again(fd: int) -> Door:
    """A descriptor of our own for the same file, with a way to write to it that doesn't block."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:  # started with the descriptor closed: nobody reads
        own = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        return own, len, lambda: os.close(own)
    if stat.S_ISSOCK(mode):
        sock = socket.socket(fileno=os.dup(fd))
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        return sock.fileno(), lambda data: sock.send(data, flags), sock.close
    if stat.S_ISREG(mode):  # not opened again: its offset must stay shared with others who write to it
        own = os.dup(fd)
        return own, lambda data: os.write(own, data), lambda: os.close(own)
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        own = os.dup(fd)
        return own, lambda data: _write_if_writable(own, data), lambda: os.close(own)
    return own, lambda data: os.write(own, data), lambda: os.close(own)


def _write_if_writable(fd: int, data: bytes) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(fd, data[: select.PIPE_BUF])  # a writable pipe has room for this much, pipe(7)


def _plain_notice(text: str) -> bytes:
    return f"holdfast: {text}\n".encode()
