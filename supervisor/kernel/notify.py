"""systemd's two protocols for a service: telling it how we are, and being handed sockets that it has opened.

Invariant: what systemd said to us stays with us. The variables are removed from the environment as they are read, so
no app or program started later speaks to systemd in our name or takes our sockets for its own. Telling never blocks
and never fails: a service manager that doesn't listen must not disturb the service.

Sources: sd_notify(3), sd_listen_fds(3), systemd.service(5).
"""

from __future__ import annotations

import array
import contextlib
import functools
import os
import socket
import time
from collections.abc import MutableMapping, Sequence

FIRST_FD = 3  # SD_LISTEN_FDS_START
MAX_NAME = 255  # bytes of a descriptor's name, sd_notify(3)
STORED = "listen="  # how the names of sockets begin that we have stored ourselves; "listen=web=127.0.0.1%3A8000"
_UNNAMED = "unknown"  # what sd_listen_fds_with_names calls a socket that came without a name


class Notifier:
    """Tells the service manager what the master does. Without `$NOTIFY_SOCKET` every call does nothing."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self.watchdog_s = _watchdog(environ, os.getpid())
        environ.pop("FDSTORE", None)  # how many descriptors a newer systemd would store for us
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
        if not self.is_active:
            return {}
        watched = {} if self.watchdog_s is None else {"WATCHDOG_USEC": str(round(self.watchdog_s * 1e6))}
        return {"NOTIFY_SOCKET": self._address.replace("\0", "@", 1), **watched}

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

    def watchdog(self) -> None:
        """Alive; to be told at least every `watchdog_s` seconds, where that is not None."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Starting, reloading or stopping takes at least so long from now: no timeout before that."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def store(self, name: str, fd: int) -> None:
        """Have a copy of a descriptor kept, and passed to the service's next process under this name.

        FDPOLL=0: it stays whatever its state; only `discard` and the service's stop end it.
        """
        self._send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=[fd])

    def discard(self, name: str) -> None:
        """Have no descriptor of this name kept any more."""
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str, fds: Sequence[int] = ()) -> None:
        if self._socket is None:
            return
        data = "\n".join(assignments).encode("utf-8", "replace")
        with contextlib.suppress(OSError):
            # Not socket.send_fds, which drops the address (as of Python 3.13).
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            self._socket.sendmsg([data], rights, 0, self._address)


def listen_fds() -> tuple[tuple[int, str], ...]:
    """The sockets of socket units that systemd passed, each with its name; none when they are for another process.

    Remembered: settings that are reread later may name a socket that the first ones did not.
    """
    return tuple((fd, name) for fd, name in _passed() if not name.startswith(STORED))


def stored_fds() -> tuple[tuple[int, str], ...]:
    """What systemd has kept for us (`Notifier.store`) and gives back. The descriptors are the first caller's."""
    return tuple((fd, name) for fd, name in _passed() if name.startswith(STORED))


@functools.cache
def _passed() -> tuple[tuple[int, str], ...]:
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


def _watchdog(environ: MutableMapping[str, str], pid: int) -> float | None:
    """Within how many seconds the manager wants to hear from `pid` again and again; None: it does not, or from another.

    Takes the variables out of `environ`. Source: sd_watchdog_enabled(3).
    """
    usec, receiver = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or receiver not in ("", str(pid)):
        return None
    return int(usec) / 1e6


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())}",) if text else ()
