"""A child's stdout and stderr on their way to ours.

Invariant: a pair of pipes belongs to one child; the read ends are closed when the last writer is gone, which may be a
command that the app has left running, and not when the child ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import deque
from collections.abc import Callable

from supervisor.kernel.identity import Identity
from supervisor.kernel.reactor import Reactor
from supervisor.messages import state
from supervisor.messages.crash import LogLine
from supervisor.observe.journal import Journal
from supervisor.observe.output import OutputReader
from supervisor.observe.render import Stream

KEPT_LINES, KEPT_CHARACTERS = 100, 1024  # of a child's output, for a report
PIPE_BYTES = 256 * 1024  # room for a burst while the master is busy; the kernel's own is 64 KiB


class Pipes:
    """Reads both streams of one child and passes each line to the journal under the child's name."""

    def __init__(
        self,
        reactor: Reactor,
        journal: Journal,
        app: str,
        generation: int,
        slot: int | None,
        kept: state.Pipes | None = None,
    ) -> None:
        self._journal = journal
        self._app = app
        self._generation = generation
        self._slot = slot
        self._last: deque[LogLine] = deque(() if kept is None else kept.last, maxlen=KEPT_LINES)
        self.pid = 0  # not known before the fork was answered
        self.stdout_write, out = _open() if kept is None else (state.NO_FD, kept.stdout)
        self.stderr_write, err = _open() if kept is None else (state.NO_FD, kept.stderr)
        self._stdout = OutputReader(reactor, out, self._on_line("stdout"))
        self._stderr = OutputReader(reactor, err, self._on_line("stderr"))

    @property
    def write_ends(self) -> tuple[int, int]:
        return self.stdout_write, self.stderr_write

    def give_to(self, identity: Identity | None) -> None:
        """The child will be this user: without a pipe of its own it could write to it, but not open /dev/stdout."""
        if identity is not None:
            for fd in self.write_ends:
                os.fchown(fd, -1 if identity.uid is None else identity.uid, identity.gid)

    def close_write_ends(self) -> None:
        """The child has its own copies now."""
        for fd in self.write_ends:
            if fd >= 0:
                os.close(fd)
        self.stdout_write = self.stderr_write = state.NO_FD

    def drain(self) -> None:
        """Read what the child left behind, now."""
        self._stdout.drain()
        self._stderr.drain()

    def last_lines(self) -> tuple[LogLine, ...]:
        """The last 100 lines of both streams, the oldest first, each shortened to 1,024 characters."""
        return tuple(self._last)

    def last_errors(self) -> list[str]:
        """The last lines of its stderr, for a report."""
        return list(self._stderr.last_lines)

    def close(self) -> None:
        """Nobody will ever write to them."""
        self.close_write_ends()
        self._stdout.close()
        self._stderr.close()

    def state(self) -> state.Pipes:
        """What whoever goes on reading has to know."""
        return state.Pipes(stdout=self._stdout.state(), stderr=self._stderr.state(), last=self.last_lines())

    def _on_line(self, stream: Stream) -> Callable[[str], None]:
        def tell(line: str) -> None:
            self._last.append(LogLine(time.time(), stream, line[:KEPT_CHARACTERS]))
            self._journal.output(
                stream, app=self._app, slot=self._slot, pid=self.pid, generation=self._generation, line=line
            )

        return tell


def _open() -> tuple[int, state.Stream]:
    """A pipe's write end, and its read end as it is before anything was read."""
    read, write = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # past /proc/sys/fs/pipe-user-pages-soft: the kernel's own size must do
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return write, state.Stream(fd=read)
