"""systemd's two protocols for a service: telling it how we are, and being handed sockets that it has opened.

Invariant: what systemd said to us stays with us. The variables are removed from the environment as they are read, so
no app or program started later speaks to systemd in our name or takes our sockets for its own. Telling never blocks
and never fails: a service manager that doesn't listen must not disturb the service.

Sources: sd_notify(3), sd_listen_fds(3), systemd.service(5).
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from collections.abc import MutableMapping

FIRST_FD = 3  # SD_LISTEN_FDS_START
_UNNAMED = "unknown"  # what sd_listen_fds_with_names calls a socket that came without a name


class Notifier:
    """Tells the service manager what the master does. Without `$NOTIFY_SOCKET` every call does nothing."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    @property
    def is_active(self) -> bool:
        """Whether somebody asked to be told."""
        return self._socket is not None

    @property
    def environment(self) -> dict[str, str]:
        """What tells our next life, in this process, whom to tell."""
        address = self._address.replace("\0", "@", 1)
        return {"NOTIFY_SOCKET": address} if self.is_active else {}

    def ready(self, status: str = "") -> None:
        """Serving, or serving again after `reloading`."""
        self._send("READY=1", *_status(status))

    def reloading(self, status: str = "") -> None:
        """A roll has begun; `ready` tells its end. The time lets systemd match it to its own reload request."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}", *_status(status))

    def stopping(self, status: str = "") -> None:
        """On the way out."""
        self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(*_status(text))

    def main_pid(self, pid: int) -> None:
        """Which process is the service's main one, when it isn't the one systemd started."""
        self._send(f"MAINPID={pid}")

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            self._socket.sendto("\n".join(assignments).encode("utf-8", "replace"), self._address)


@functools.cache
def listen_fds() -> tuple[tuple[int, str], ...]:
    """The descriptors that systemd passed, each with its name; empty when it passed none, or passed them to another.

    Read once and remembered: settings that are reread later may name a socket that the first ones did not.
    """
    return read_listen_fds(os.environ, os.getpid())


def read_listen_fds(environ: MutableMapping[str, str], pid: int) -> tuple[tuple[int, str], ...]:
    """Take the protocol's variables out of `environ`; what they pass to `pid` becomes close-on-exec."""
    receiver, count, names = (environ.pop(f"LISTEN_{key}", "") for key in ("PID", "FDS", "FDNAMES"))
    environ.pop("LISTEN_PIDFDID", None)  # newer systemd's second word on who is meant
    if receiver != str(pid) or not count.isdecimal():
        return ()
    fds = range(FIRST_FD, FIRST_FD + int(count))
    named = names.split(":") if names else []
    for fd in fds:
        with contextlib.suppress(OSError):  # a descriptor that isn't there is told when it is used
            os.set_inheritable(fd, False)
    return tuple((fd, named[i] if i < len(named) else _UNNAMED) for i, fd in enumerate(fds))


def handed_environment() -> dict[str, str]:
    """What tells our next life, in this process, of the sockets that systemd has passed to it."""
    passed = listen_fds()
    if not passed:
        return {}
    names = ":".join(name for _fd, name in passed)
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(passed)), "LISTEN_FDNAMES": names}


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())}",) if text else ()
