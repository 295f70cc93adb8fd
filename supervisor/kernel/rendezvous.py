"""Where those that a master has left behind meet the next one: a socket at a known path, that they listen on.

Invariant: a descriptor is handed over to our own user, to root, or to who the master was, and to nobody else: each side
asks the kernel who the other is (unix(7), SO_PEERCRED).
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import struct
import time

from supervisor.errors import SurroundingsError
from supervisor.kernel.sockets import Listener, open_unix

MODE = 0o600
_BACKLOG = 16
_UCRED = struct.Struct("3i")
_NOBODY = {errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE}


def open_rendezvous(path: str) -> Listener:
    """Listen there; a dead one's socket is replaced. Raises `SurroundingsError`."""
    return open_unix(path, backlog=_BACKLOG, mode=MODE)


def answer(listener: socket.socket, fd: int, master_uid: int) -> bool:
    """Hand `fd` to the next who asks; `master_uid` is who the master was. False when nobody waits."""
    try:
        caller, _address = listener.accept()
    except OSError:
        return False
    with caller:
        if _uid(caller) in (0, os.geteuid(), master_uid):
            caller.setblocking(False)
            with contextlib.suppress(OSError):  # it has thought better of it
                rights = array.array("i", [fd])
                caller.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL)
    return True


def ask(path: str, timeout: float) -> int | None:
    """The descriptor that is handed over there; None when nobody is left. Raises `SurroundingsError`."""
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        try:
            return _ask(path, left)
        except TimeoutError:
            break
        except BlockingIOError:  # its queue is full of others who ask
            time.sleep(0.01)
        except OSError as error:
            if error.errno in _NOBODY:
                return None
            raise SurroundingsError(f"{path}: {error.strerror}") from None
    raise SurroundingsError(
        f"{path}: processes of a former master are there and have not answered within {timeout:g} s; "
        "try again, or end them"
    )


def _ask(path: str, timeout: float) -> int | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(timeout)
        caller.connect(path)
        if _uid(caller) not in (0, os.geteuid()):
            raise SurroundingsError(f"{path}: another user listens there")
        _data, fds, _flags, _address = socket.recv_fds(caller, 1, 1)  # which heeds no flags
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds[0] if fds else None


def _uid(sock: socket.socket) -> int:
    """Who connected, or who began to listen."""
    uid: int = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
    return uid
