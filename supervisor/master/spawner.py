"""One spawner process as the master sees it: exec'd, importing, forking on request, gone.

Invariants:
- Exactly one `on_end` for each spawner, whatever becomes of it, after its last words were read.
- Each fork that was asked for is answered, by `on_forked` or `on_fork_lost`, exactly once. After `on_fork_lost` nobody
  knows whether there is a process: it stays counted as on its way until its worker has found out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Protocol

from supervisor.config.settings import AppSettings
from supervisor.errors import ProtocolError
from supervisor.kernel import procfs
from supervisor.kernel.channel import Channel
from supervisor.kernel.process import Ended, spawn
from supervisor.kernel.reactor import Reactor, Timer
from supervisor.kernel.sockets import Listener
from supervisor.master import record
from supervisor.master.children import Child, Children
from supervisor.master.confinement import confined, environment
from supervisor.master.estate import Estate
from supervisor.master.pipes import Pipes
from supervisor.master.place import SPAWNER, Place
from supervisor.messages.wire import (
    Adopted,
    Fork,
    Forked,
    ForkFailed,
    Imported,
    ImportFailed,
    Launch,
    encode,
    from_spawner,
)
from supervisor.observe.journal import Journal

FORK_TIMEOUT = 10.0  # seconds after which a spawner that does not answer is taken to hang
RETIRE_TIMEOUT = 5.0  # seconds a retired spawner gets to leave by itself


class SpawnerOwner(Protocol):
    """Who is told what becomes of a spawner."""

    def on_imported(self, spawner: Spawner, imported: Imported) -> None: ...
    def on_forked(self, _spawner: Spawner, worker: int, pid: int) -> None: ...
    def on_fork_lost(self, _spawner: Spawner, worker: int, reason: str) -> None: ...
    def on_spawner_end(self, spawner: Spawner, reason: str) -> None: ...


class Spawner:
    """`start` or `resume` makes a process of it. `is_ready` once it can fork."""

    _child: Child
    _channel: Channel
    pipes: Pipes

    def __init__(
        self,
        owner: SpawnerOwner,
        reactor: Reactor,
        children: Children,
        journal: Journal,
        settings: AppSettings,
        place: Place,
        generation: int,
    ) -> None:
        self._owner = owner
        self._reactor = reactor
        self._children = children
        self._journal = journal
        self._pending: dict[int, Timer] = {}  # forks asked for, by worker
        self._failure = ""
        self._retirement: Timer | None = None
        self.settings = settings
        self.place = place
        self.generation = generation
        self.has_imported = False
        self.import_failed = False
        self.is_retired = False
        self.pid = 0
        self._started = 0  # when the process was, in clock ticks

    def start(self) -> None:
        """Exec it."""
        self.pipes = Pipes(self._reactor, self._journal, self.settings.name, self.generation, None)
        self._channel, theirs = Channel.pair()
        self._reactor.add_reader(self._channel.fileno(), self._on_message)
        self.pid = self._exec(theirs)
        self._started = procfs.start_ticks(self.pid) or 0
        self.pipes.pid = self.pid
        self.pipes.close_write_ends()
        theirs.close()
        self._child = self._children.watch(self.pid, self._on_end)

    def state(self) -> record.Spawner:
        """All that a master which goes on with it has to know."""
        return record.Spawner(
            pid=self.pid,
            started=self._started,
            channel=self._channel.fileno(),
            pipes=self.pipes.state(),
            has_imported=self.has_imported,
            import_failed=self.import_failed,
            is_retired=self.is_retired,
            failure=self._failure,
            pending=tuple(self._pending),
        )

    def resume(self, kept: record.Spawner) -> None:
        """Go on with the process of an earlier master, whether it still runs or not; waits get their full time anew."""
        self.pid, self._started, self._failure = kept.pid, kept.started, kept.failure
        self.has_imported, self.import_failed = kept.has_imported, kept.import_failed
        self.is_retired = kept.is_retired
        self.pipes = Pipes(self._reactor, self._journal, self.settings.name, self.generation, None, kept.pipes)
        self.pipes.pid = self.pid
        self._channel = Channel.from_fd(kept.channel) if kept.channel >= 0 else Channel.closed()
        if kept.channel >= 0:
            self._reactor.add_reader(self._channel.fileno(), self._on_message)
        self._child = self._children.watch_again(self.pid, self._started, self._on_end)
        for worker in kept.pending:
            self._expect(worker)
        if self.is_retired:
            self._retirement = self._reactor.call_later(RETIRE_TIMEOUT, self._child.kill)

    @property
    def is_ready(self) -> bool:
        """It can fork now."""
        return self.has_imported and self._channel.fileno() >= 0

    def launch(self, board: int, listeners: list[Listener], estate: Estate | None) -> None:
        """Tell what to import, and pass the board, the listening sockets, and what is left to it if we are killed."""
        bound = tuple(listener.bound for listener in listeners)
        terms = estate.terms(listeners) if estate is not None else None
        message = Launch(self.settings, self.place.home, self.generation, bound, self._journal.log_format, terms)
        fds = [board, *(listener.fileno() for listener in listeners), *(estate.fds if estate is not None else ())]
        self._send(message, fds)

    def adopted(self, master: Adopted) -> None:
        """Tell it who its master is now."""
        self._send(master)

    def _send(self, message: Launch | Adopted, fds: Sequence[int] = ()) -> None:
        with contextlib.suppress(OSError):  # it died already: its end will be told
            self._channel.send(encode(message), fds)

    def fork(self, request: Fork, fds: Sequence[int]) -> None:
        """Ask for a worker."""
        self._expect(request.worker)
        try:
            self._channel.send(encode(request), fds)
        except OSError as error:
            self._lose(request.worker, f"the spawner can't be asked: {error.strerror}")

    def retire(self) -> None:
        """Have it leave; its workers serve on."""
        if self.is_retired:
            return
        self.is_retired = True
        self._close_channel()
        self._retirement = self._reactor.call_later(RETIRE_TIMEOUT, self._child.kill)

    def kill(self, reason: str) -> None:
        """End it now; `reason` is what its owner will hear."""
        self._failure = self._failure or reason
        self._child.kill()

    def _exec(self, theirs: Channel) -> int:
        """Start a fresh interpreter, with its channel at 3, in a session of its own: Ctrl-C is for the master alone."""
        self.pipes.give_to(self.place.identity)
        command = confined(self.settings, self.place, SPAWNER, self.place.command(SPAWNER))
        return spawn(command, environment(self.settings, self.place), [*self.pipes.write_ends, theirs.fileno()])

    def _on_message(self) -> None:
        try:
            data = self._channel.receive_data()
        except BlockingIOError:
            return
        if data is None:
            self._close_channel()  # its end is told by the pidfd
            return
        try:
            message = from_spawner(data)
        except ProtocolError as error:
            self.kill(f"the spawner sent nonsense: {error}")
            return
        if isinstance(message, Imported):
            self.has_imported = True
            self._owner.on_imported(self, message)
        elif isinstance(message, ImportFailed):
            self.import_failed, self._failure = True, message.reason
        elif isinstance(message, Forked):
            self._owner.on_forked(self, message.worker, message.pid)
            if self._is_answered(message.worker):
                self._children.fork_is_known()
        elif isinstance(message, ForkFailed):
            self._lose(message.worker, message.reason)

    def _expect(self, worker: int) -> None:
        """An answer to a request for this worker is due."""
        self._children.fork_begins()
        self._pending[worker] = self._reactor.call_later(FORK_TIMEOUT, self._on_no_answer)

    def _on_no_answer(self) -> None:
        self.kill(f"the spawner did not answer for {FORK_TIMEOUT:g} s")

    def _is_answered(self, worker: int) -> bool:
        timer = self._pending.pop(worker, None)
        if timer is None:
            return False
        timer.cancel()
        return True

    def _lose(self, worker: int, reason: str) -> None:
        if self._is_answered(worker):
            self._owner.on_fork_lost(self, worker, reason)

    def _on_end(self, ended: Ended) -> None:
        while self._channel.fileno() >= 0:  # its last messages may still wait
            before = len(self._pending), self._failure
            self._on_message()
            if (len(self._pending), self._failure) == before:
                break
        self._close_channel()
        self.pipes.drain()
        if self._retirement is not None:
            self._retirement.cancel()
        reason = self._failure or f"the spawner ended: {ended}"
        for worker in list(self._pending):
            self._lose(worker, reason)
        self._owner.on_spawner_end(self, reason)

    def _close_channel(self) -> None:
        if self._channel.fileno() >= 0:
            self._reactor.remove_reader(self._channel.fileno())
            self._channel.end()
