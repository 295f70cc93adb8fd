"""Message channels between holdfast's own processes: SOCK_SEQPACKET pairs that keep boundaries and carry descriptors.

Invariant: a message arrives whole or not at all, and the end of the peer, however it died, reads as `None`.
Nothing here blocks: a full channel raises `BlockingIOError` to the sender, who decides.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import socket
import termios
from collections.abc import Sequence

MAX_MESSAGE = 128 * 1024
MAX_FDS = 128  # the kernel allows 253 in one message (SCM_MAX_FD, unix(7))


class NoRoomError(OSError):
    """A message came, and this process may not have as many descriptors as came with it. It has none of them."""

    def __init__(self, data: bytes) -> None:
        super().__init__(errno.EMFILE, "no room for the descriptors of a message")
        self.data = data


class Channel:
    """One end of a pair. `send` and `receive` move bytes and the descriptors that belong to them."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Take over a descriptor inherited across exec."""
        os.set_inheritable(fd, False)
        return cls(socket.socket(fileno=fd))

    @staticmethod
    def closed() -> Channel:
        """An end that is no more."""
        left, right = Channel.pair()
        left.close()
        right.close()
        return left

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        """Two connected ends, both close-on-exec."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (left, right):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_MESSAGE)
        return Channel(left), Channel(right)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send one message. Raises `BlockingIOError` when full, `BrokenPipeError` or `ConnectionError` when gone."""
        if not 0 < len(data) <= MAX_MESSAGE:  # an empty message would read as the end
            raise ValueError(f"a message of {len(data)} bytes; it may have 1 to {MAX_MESSAGE}")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[bytes, list[int]] | None:
        """The next message with its descriptors (close-on-exec), or None when the peer is gone.

        Raises `BlockingIOError` when nothing waits, and `NoRoomError`, with the message, when its descriptors are lost.
        """
        try:
            data, ancillary, flags, _address = self._receive()
        except ConnectionError:
            return None
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if flags & socket.MSG_CTRUNC or not data:
            for fd in fds:
                os.close(fd)
            if data:
                raise NoRoomError(data)
            return None
        return data, list(fds)

    def receive_data(self) -> bytes | None:
        """As `receive`, from a peer whose messages have no descriptors: any that come all the same are closed."""
        try:
            received = self.receive()
        except NoRoomError as error:
            return error.data
        if received is None:
            return None
        for fd in received[1]:
            os.close(fd)
        return received[0]

    def _receive(self) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        space = socket.CMSG_SPACE(MAX_FDS * 4)
        try:
            return self._sock.recvmsg(MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            # A peer that left something unread is told of once, and before what it had sent itself.
            return self._sock.recvmsg(MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)

    def is_waited_at(self) -> bool:
        """Something is there to be received, or the peer's end."""
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def unsent(self) -> int:
        """0 when all that was sent from this end has been received, be it by whoever (SIOCOUTQ)."""
        memory = array.array("i", [0])
        fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, memory)
        return memory[0]

    def set_blocking(self, blocking: bool) -> None:
        self._sock.setblocking(blocking)

    def end(self) -> None:
        """Close, for the peer too, whoever else holds a copy of this end."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.close()
