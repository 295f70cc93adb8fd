"""Taking connections from a listening socket, without what Python's own `accept` spends on each.

Invariant: every connection taken is close-on-exec, and is owned by the object returned.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable

_LAST_DATA_RECV = 52  # of struct tcp_info in linux/tcp.h, an u32 of milliseconds
_ANY = ("0.0.0.0", "::")


class Door:
    """A listening socket. What connections from it have in common is found out once.

    `socket.accept` looks up two enums and makes an object of Python's for each, at the price of half a request. Here it
    is the C object below that, which has all that an event loop asks for.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._accept: Callable[[], tuple[int, object]] = listener._accept  # type: ignore[attr-defined]
        self._kind = int(listener.family), int(listener.type), listener.proto
        address = listener.getsockname()
        is_any = not isinstance(address, tuple) or address[0] in _ANY
        self.here = None if is_any else address  # what connections are made to, where that's one address

    def accept(self) -> tuple[socket.socket, object]:
        """The next connection, and its peer's address. Raises `OSError` as accept(2) does."""
        fd, peer = self._accept()
        return socket.SocketType(*self._kind, fileno=fd), peer  # type: ignore[return-value]

    def is_waited_at(self) -> bool:
        """Whether a connection waits in the kernel's queue."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close this process's copy."""
        self._listener.close()


def silence(sock: socket.socket) -> float:
    """Seconds since the last bytes came on a TCP connection, or since it was made (tcp(7), TCP_INFO); 0 on others."""
    if sock.family == socket.AF_UNIX:
        return 0.0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECV + 4)
    except OSError:
        return 0.0
    milliseconds: int = struct.unpack_from("=I", info, _LAST_DATA_RECV)[0]
    return milliseconds / 1000
