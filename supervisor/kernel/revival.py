"""Listening sockets that outlived the master that opened them: taken back as if they had just been opened.

Invariant: what comes back listens at the very address that was asked for, on today's terms; anything else is closed and
counts as gone.

Sources: listen(2) (again on a listening socket it sets the backlog anew), tcp(7), unix(7).
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import stat

from supervisor.kernel.sockets import Listener


def revive_tcp(fd: int, address: str, backlog: int, defer: float) -> Listener | None:
    """The socket behind `fd`, which listened for `address`; None when it can't be used. `fd` is ours or closed."""
    sock = _listening(fd, (socket.AF_INET, socket.AF_INET6))
    if sock is None:
        return None
    port = int(address.rpartition(":")[2])
    if port not in (0, sock.getsockname()[1]):
        sock.close()
        return None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, math.ceil(defer))
    sock.listen(backlog)
    return Listener(address, sock)


def revive_unix(fd: int, path: str, backlog: int, mode: int, owner: tuple[int, int]) -> Listener | None:
    """The same for a socket file, which must still be there. `owner` is uid and gid, -1 for as it is."""
    sock = _listening(fd, (socket.AF_UNIX,))
    if sock is None:
        return None
    try:
        if sock.getsockname() != path or not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileNotFoundError(path)
        os.chown(path, *owner)
        os.chmod(path, mode)
    except OSError:  # removed, or not ours any more: a new one says what is wrong
        sock.close()
        return None
    sock.listen(backlog)
    return Listener(f"unix:{path}", sock)


def _listening(fd: int, families: tuple[socket.AddressFamily, ...]) -> socket.socket | None:
    try:
        sock = socket.socket(fileno=fd)
    except OSError:  # not a socket, or no descriptor at all
        with contextlib.suppress(OSError):
            os.close(fd)
        return None
    if (
        sock.family in families
        and sock.type == socket.SOCK_STREAM
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        return sock
    sock.close()
    return None
