"""Taking connections from a listening socket, without what Python's own `accept` spends on each.

Invariant: every connection taken is close-on-exec, and is owned by the object returned.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

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
