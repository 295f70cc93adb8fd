"""What a spawner or worker does for a master that has been killed: goes on, and keeps what it has left for the next.

Invariants:
- A master that is only stopped, or becomes newer code, is alive: it is known by its process, through a pidfd.
- What is left to us is given to whoever comes in its place, and used for nothing else.
- The last to leave takes the socket files away, unless there is a master again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import time

from supervisor.config.settings import LogFormat
from supervisor.kernel import procfs, rendezvous
from supervisor.messages.events import Event
from supervisor.messages.wire import Estate


class Trustee:
    """One process's. `fds` are the vault's taking end, the rendezvous, the roll call, and the master's stderr."""

    def __init__(self, estate: Estate, fds: list[int], log_format: LogFormat, app: str, generation: int) -> None:
        self.estate = estate
        self._vault, meeting, self._roll_call, self._stderr = fds
        self.meeting = socket.socket(fileno=meeting)
        self.meeting.setblocking(False)
        self._log_format = log_format
        self._who = app, generation
        self._master = 0
        self.watched = -1  # a descriptor that is readable once the master has ended
        self.obey(estate.pid, estate.started)

    def obey(self, pid: int, started: int) -> None:
        """The master is this process, which began at `started` (`procfs.start_ticks`)."""
        if self.watched >= 0:
            os.close(self.watched)
        self._master, self.watched = pid, -1
        with contextlib.suppress(OSError):
            self.watched = os.pidfd_open(pid)
        if procfs.start_ticks(pid) != started and self.watched >= 0:
            os.close(self.watched)  # another process with its number
            self.watched = -1

    @property
    def has_master(self) -> bool:
        """The master's process has not ended."""
        if self.watched < 0:
            return False
        poll = select.poll()
        poll.register(self.watched, select.POLLIN)
        return not poll.poll(0)

    def be_counted(self) -> None:
        """This process is here, until it ends: a lock that a fork does not inherit (fcntl(2), F_SETLK)."""
        with contextlib.suppress(OSError):
            fcntl.lockf(self._roll_call, fcntl.LOCK_SH | fcntl.LOCK_NB, 1)

    def answer(self) -> None:
        """Give what is left to us to the master who asks."""
        rendezvous.answer(self.meeting, self._vault, self.estate.uid)

    def say(self, text: str, slot: int | None = None) -> None:
        """One line, on the stderr of the master that is no more: whoever reads the log is told at once."""
        from supervisor.observe.render import render_json, render_text  # not before a master has died

        app, generation = self._who
        event = Event(
            ts=time.time(),
            name="log",
            text=f"the master (pid {self._master}) is gone: {text}",
            level="warning",
            app=app,
            slot=slot,
            pid=os.getpid(),
            generation=generation,
        )
        line = render_json(event) if self._log_format == "json" else render_text(event).encode("utf-8", "replace")
        poll = select.poll()
        poll.register(self._stderr, select.POLLOUT)
        with contextlib.suppress(OSError):
            if any(ready & select.POLLOUT for _fd, ready in poll.poll(0)):  # room for PIPE_BUF bytes, pipe(7)
                os.write(self._stderr, line[: select.PIPE_BUF - 1] + b"\n")

    def clean_up(self) -> None:
        """To be called by who leaves without a master, and has closed its listening sockets.

        The vault's copies of them are closed with the last who has it: before the files go, and a new master comes.
        """
        os.close(self._vault)
        self.meeting.close()
        if self._is_last():
            _clean_up(self.estate)

    def _is_last(self) -> bool:
        """Nobody else of this instance is there; of several who ask at once one is told so."""
        try:
            fcntl.lockf(self._roll_call, fcntl.LOCK_UN, 1)
            fcntl.lockf(self._roll_call, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError:
            return False
        return True


def _clean_up(estate: Estate) -> None:
    """Remove what the master would have removed, if it is still what the master made, and nobody has come since."""
    claim = -1
    with contextlib.suppress(OSError):
        claim = os.open(f"{estate.control}.lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path, inode in estate.files:
            with contextlib.suppress(OSError):
                if os.lstat(path).st_ino == inode:
                    os.unlink(path)
        for path in (f"{estate.control}.state", f"{estate.control}.state.new", f"{estate.control}.lock"):
            with contextlib.suppress(OSError):
                os.unlink(path)
    if claim >= 0:
        os.close(claim)
