"""One worker process as the master sees it: asked for, forked, ready, draining, gone.

Invariants:
- Exactly one `on_worker_end` for each worker, after its last words were read and before its board row is given back.
- Nothing here waits for a worker: what it says comes by its channel, how it is stands on the board.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from typing import Protocol

from supervisor.errors import ProtocolError
from supervisor.kernel.board import Board, Cell
from supervisor.kernel.channel import Channel
from supervisor.kernel.process import Ended
from supervisor.kernel.reactor import Reactor
from supervisor.master.children import Child, Children
from supervisor.master.pipes import Pipes
from supervisor.messages.wire import BootFailed, Drain, Faltered, FromWorker, ReopenLogs, Waiting, encode, from_worker
from supervisor.observe.journal import Journal


class WorkerOwner(Protocol):
    """Who is told what a worker says and what becomes of it."""

    def on_worker_message(self, worker: Worker, message: FromWorker) -> None: ...
    def on_worker_end(self, worker: Worker, reason: str) -> None: ...


class Worker:
    """Made when a worker is wanted; `born` when its pid is known."""

    def __init__(
        self,
        owner: WorkerOwner,
        reactor: Reactor,
        journal: Journal,
        board: Board,
        app: str,
        generation: int,
        slot: int,
        number: int,
    ) -> None:
        self._owner = owner
        self._reactor = reactor
        self._board = board
        self._child: Child | None = None
        self._why = ""  # what it said, or was done to it, that explains its end
        self._waiting_for = ""
        self._early: list[FromWorker] = []  # what it said before the spawner had told its pid
        self.number = number
        self.slot = slot
        self.generation = generation
        self.began = reactor.now()
        self.boot_failure: BootFailed | None = None
        self.is_leaving = False
        self.max_requests: int | None = None
        self.row_number = board.take()
        self.row = board.row(self.row_number)
        self.pipes = Pipes(reactor, journal, app, generation, slot)
        self._channel, self._theirs = Channel.pair()
        reactor.add_reader(self._channel.fileno(), self._on_message)

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    @property
    def requests(self) -> int:
        """Requests it has taken since it started."""
        return self.row[Cell.STARTED]

    @property
    def inflight(self) -> int:
        """Requests it has taken and not yet done with, also after its death."""
        return max(0, self.row[Cell.STARTED] - self.row[Cell.FINISHED] - self.row[Cell.CUT])

    def fds_to_pass(self) -> tuple[int, int, int]:
        """What travels with the request to fork it: channel, stdout, stderr."""
        return self._theirs.fileno(), *self.pipes.write_ends

    def passed(self) -> None:
        """The spawner has been sent its copies."""
        self._theirs.close()
        self.pipes.close_write_ends()

    def born(self, children: Children, pid: int) -> None:
        """It is this process."""
        self.pipes.pid = pid
        self._child = children.watch(pid, self._on_end)
        if self._why:  # its end was ordered while it was being forked
            self._child.kill()

    def listened_to(self) -> None:
        """The owner has told of its birth and is ready for what it has said since."""
        early, self._early = self._early, []
        for message in early:
            self._owner.on_worker_message(self, message)

    def never_born(self, reason: str, *, was_asked_for: bool) -> None:
        """No process came of it. Where a fork was asked for its row stays taken: one not told of may write to it."""
        if not was_asked_for:
            self.passed()
            self._board.release(self.row_number)
        self.pipes.drain()
        self._finish(self._why or reason)

    def drain(self, timeout: float, linger: float | None, *, sweep: bool = False) -> None:
        """Have it finish what it has and leave."""
        self.is_leaving = True
        self._send(Drain(timeout, linger, sweep))

    def reopen_logs(self, access_log: int) -> None:
        """Give it the access log's new file."""
        self._send(ReopenLogs(), [access_log])

    def kill(self, why: str) -> None:
        """End it now."""
        self._why = self._why or f"{why}{f' ({self._waiting_for})' if self._waiting_for else ''}"
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> bool:
        """Send a signal; False when it has no process any more, or not yet."""
        return self._child is not None and self._child.signal(number)

    def _send(self, message: Drain | ReopenLogs, fds: Sequence[int] = ()) -> None:
        # A worker that is gone is told of by its pidfd; one that reads nothing is ended by its deadline.
        with contextlib.suppress(OSError):
            self._channel.send(encode(message), fds)

    def _on_message(self) -> None:
        while self._channel.fileno() >= 0:
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            if received is None:
                self._close_channel()
                return
            data, fds = received
            for fd in fds:
                os.close(fd)
            try:
                self._take(from_worker(data))
            except ProtocolError as error:  # the app has got at the channel: it may not speak for the worker any more
                self._why = str(error)
                self._close_channel()

    def _take(self, message: FromWorker) -> None:
        if isinstance(message, BootFailed):
            self.boot_failure = message
            self._why = message.reason
        elif isinstance(message, Faltered):
            self._why = f"its event loop ended: {message.reason}"
        elif isinstance(message, Waiting):
            self._waiting_for = message.reason
        elif self._child is None:
            self._early.append(message)
        else:
            self._owner.on_worker_message(self, message)

    def _on_end(self, ended: Ended) -> None:
        self._on_message()
        if ended.is_clean and self.is_leaving:
            reason = ""
        elif self._why and ended.signal == signal.SIGKILL:
            reason = f"{self._why}; {ended}"
        else:
            reason = self._why or str(ended)
        self.pipes.drain()
        self._finish(reason)
        self._board.release(self.row_number)

    def _finish(self, reason: str) -> None:
        self._close_channel()
        self._owner.on_worker_end(self, reason)

    def _close_channel(self) -> None:
        if self._channel.fileno() >= 0:
            self._reactor.remove_reader(self._channel.fileno())
            self._channel.close()
