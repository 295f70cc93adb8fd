"""The newly installed code, tried aside: does it start, and does it read the state that it would go on with?

Invariant: whatever the new code does, within `PREFLIGHT_TIMEOUT` there is one answer: its version, or why it can't.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import msgspec

from supervisor.kernel.process import Ended, spawn
from supervisor.kernel.reactor import Reactor
from supervisor.master import record
from supervisor.master.children import Child, Children
from supervisor.messages.state import Stream
from supervisor.observe.output import OutputReader

PREFLIGHT_TIMEOUT = 15.0  # seconds for the new code to start and to read the state
ENTRY = ("-P", "-m", "supervisor.master")  # what every version understands, with --preflight FD or --resume FD

_RECORD_FD = 3  # where the new code finds the state
_COMMAND = [sys.executable, *ENTRY, "--preflight", str(_RECORD_FD)]

Then = Callable[[str, str], None]  # the version, and why it can't (empty: it can)


class Answer(msgspec.Struct):
    """What a preflight prints: its version."""

    version: str


class Preflight:
    """The new code, run aside with the state; `then` hears its version, or why it can't."""

    def __init__(self, reactor: Reactor, children: Children, state: record.Master, then: Then) -> None:
        self._then = then
        self._why = ""
        self._lines: list[str] = []
        self._complaints: list[str] = []
        (out, out_write), (err, err_write) = (os.pipe2(os.O_CLOEXEC) for _ in range(2))
        self._readers = (
            OutputReader(reactor, Stream(fd=out), self._lines.append),
            OutputReader(reactor, Stream(fd=err), self._complaints.append),
        )
        memory = write_memory(record.encode(state))
        try:
            pid = spawn(_COMMAND, os.environ, [out_write, err_write, memory])
        except OSError as error:
            failure = f"{sys.executable} can't be run: {error.strerror}"
            reactor.call_later(0, lambda: then("", failure))
            return
        finally:
            for fd in (out_write, err_write, memory):
                os.close(fd)
        self._child: Child = children.watch(pid, self._on_end)
        self._timer = reactor.call_later(PREFLIGHT_TIMEOUT, self._on_late)

    def _on_late(self) -> None:
        self._why = f"the new code did not answer within {PREFLIGHT_TIMEOUT:g} s"
        self._child.kill()

    def _on_end(self, ended: Ended) -> None:
        self._timer.cancel()
        for reader in self._readers:
            reader.close()
        version, failure = "", ""
        try:
            version = msgspec.json.decode("".join(self._lines[-1:]), type=Answer).version
        except msgspec.DecodeError:
            failure = f"the new code does not answer: {ended}"
        if not ended.is_clean:
            last = self._complaints[-1] if self._complaints else str(ended)
            failure = self._why or f"the new code can't go on: {last}"
        self._then(version, failure)


def write_memory(data: bytes) -> int:
    """A descriptor with nothing but this behind it."""
    memory = os.memfd_create("holdfast-state", os.MFD_CLOEXEC)
    with open(os.dup(memory), "wb") as file:
        file.write(data)
    return memory


def read_memory(fd: int) -> bytes:
    """What `write_memory` has written; the descriptor is closed."""
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)
