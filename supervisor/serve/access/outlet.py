"""A descriptor that others may share, written to without ever waiting and without touching its flags.

Invariant: a write returns at once, whatever the reader does. O_NONBLOCK belongs to the open file, and so to all who
have it: the shell, stderr, the other workers. So a socket is asked not to wait at each write; a pipe or a terminal is
opened anew, to be non-blocking here only; and a regular file never waits. A pipe that can't be opened anew, since
another user has made it or its reader has just gone, gets its data out of a pipe of our own, by splice(2), which can be
asked not to wait. A terminal that can't is asked by poll(2) first, and nothing better can be done.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import select
import socket
import stat
from collections.abc import Callable

_SPLICED = 16 * 4096  # bytes that a new pipe holds, pipe(7)


Write = Callable[[bytes], int]


class Outlet:
    """Owns `fd`. `write` returns how many bytes it has written, or raises `BlockingIOError` when none can be now, or
    another `OSError`. `is_pipe`: up to PIPE_BUF bytes are written whole or not at all, pipe(7)."""

    def __init__(self, fd: int) -> None:
        mode = os.fstat(fd).st_mode
        self.is_pipe = stat.S_ISFIFO(mode)
        self.write: Write
        self._closing = contextlib.ExitStack()
        if stat.S_ISSOCK(mode):
            sock = self._closing.enter_context(socket.socket(fileno=fd))
            self.write = lambda data: sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        elif stat.S_ISREG(mode) or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK:
            self._closing.callback(os.close, fd)
            self.write = functools.partial(os.write, fd)
        else:
            self._open_anew(fd)

    def close(self) -> None:
        """Close it; what was written is on its way."""
        self._closing.close()

    def _open_anew(self, fd: int) -> None:
        try:
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            self._closing.callback(os.close, fd)
            self.write = self._spliced(fd) if self.is_pipe else functools.partial(_write_if_writable, fd)
            return
        os.close(fd)
        self._closing.callback(os.close, own)
        self.write = functools.partial(os.write, own)

    def _spliced(self, fd: int) -> Write:
        source, entry = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._closing.callback(os.close, source)
        self._closing.callback(os.close, entry)

        def write(data: bytes) -> int:
            size = os.write(entry, data[:_SPLICED])
            gone = 0
            try:
                gone = os.splice(source, fd, size, flags=os.SPLICE_F_NONBLOCK)
            finally:
                if gone < size:
                    os.read(source, size - gone)
            return gone

        return write


def _write_if_writable(fd: int, data: bytes) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(fd, data[: select.PIPE_BUF])
