"""The stacks of a worker's threads, written by the worker itself into memory that the master shares with it.

Invariant: what is written needs nothing of the interpreter: faulthandler's handlers are C, and run also while other C
code keeps the interpreter to itself, or has just broken it. The master reads without waiting, also of the dead.

A record is a memfd in append mode, so that pieces of several writers stay behind each other, and the master can empty
it at any time. A worker's own children do not write to it: their ends are not the worker's.

Sources: faulthandler (Python), memfd_create(2), signal(7).
"""

from __future__ import annotations

import fcntl
import os
import signal

SHOW = signal.SIGRTMAX - 4
"""Asks a worker for its stacks: taken by Python code, as soon as the interpreter runs any in the main thread."""
DUMP = signal.SIGRTMAX - 3
"""Asks a worker for its stacks: taken by faulthandler, at once, whatever the process does."""

MAX_RECORD = 4 * 1024 * 1024  # bytes that are read of one: 100 threads of 100 frames are a quarter of it
_FATAL = b"Fatal Python error: "


class StackRecord:
    """The master's side. `fd` goes to the worker."""

    def __init__(self, name: str, fd: int = -1) -> None:
        self.fd = os.memfd_create(f"holdfast-stacks-{name}", os.MFD_CLOEXEC) if fd < 0 else fd
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_APPEND)

    @property
    def size(self) -> int:
        """Bytes written since it was last cleared."""
        return os.fstat(self.fd).st_size

    def clear(self) -> None:
        """Make room for what is asked next."""
        os.ftruncate(self.fd, 0)

    def read(self) -> bytes:
        """All that is in it."""
        return os.pread(self.fd, MAX_RECORD, 0)

    def fatal(self) -> str:
        """What a fatal signal has left, from "Fatal Python error: Segmentation fault" on; empty if there was none."""
        text = self.read()
        begins = text.find(_FATAL)
        return text[begins:].decode("utf-8", "backslashreplace") if begins >= 0 else ""

    def close(self) -> None:
        """Close it; the worker's own copy goes with the worker."""
        os.close(self.fd)


def leave_stacks_in(fd: int) -> None:
    """In a worker: have fatal signals, and `DUMP`, leave the stacks of all threads in this record."""
    import faulthandler  # nothing of the master's

    faulthandler.enable(fd, all_threads=True)
    faulthandler.register(DUMP, fd, all_threads=True)
    os.register_at_fork(after_in_child=lambda: faulthandler.enable(2))
