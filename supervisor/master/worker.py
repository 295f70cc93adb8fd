"""One worker process as the master sees it: asked for, forked, ready, draining, gone.

Invariants:
- Exactly one `on_worker_end` for each worker, after its last words were read and before its board row is given back.
- A fork whose answer was lost ends in a process that is watched, or in the certainty that there is none: whoever lives
  holds the other end of the channel, and has written its pid on the board.
- Nothing here waits for a worker: what it says comes by its channel, how it is stands on the board.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from typing import Protocol

from supervisor.config.settings import Interface
from supervisor.errors import ProtocolError
from supervisor.kernel import procfs
from supervisor.kernel.board import Board, Cell
from supervisor.kernel.channel import Channel
from supervisor.kernel.process import Ended
from supervisor.kernel.reactor import Reactor
from supervisor.kernel.stacks import StackRecord
from supervisor.master import record
from supervisor.master.children import Child, Children
from supervisor.master.history import History
from supervisor.master.inquiry import Inquiry, OnAnswer
from supervisor.master.pipes import Pipes
from supervisor.messages.wire import (
    Admit,
    Adopted,
    Allow,
    BootFailed,
    Drain,
    Faltered,
    FromWorker,
    Inherit,
    Lend,
    Probe,
    ReopenLogs,
    Show,
    Survey,
    ToWorker,
    Waiting,
    encode,
    from_worker,
)
from supervisor.observe.flight import Flight, look
from supervisor.observe.journal import Journal
from supervisor.watch.limits import Limits
from supervisor.watch.stall import BEAT

ABORT_TIME = 1.5  # seconds


class WorkerOwner(Protocol):
    """Who is told what a worker says and what becomes of it."""

    def on_worker_born(self, worker: Worker) -> None: ...
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
        self._journal = journal
        self._board = board
        self._app = app
        self._child: Child | None = None
        self._started = 0  # when its process was, in clock ticks
        self._search: tuple[Children, str] | None = None  # why the answer to its fork was lost, and who waits for it
        self._why = ""  # what it said, or was done to it, that explains its end
        self._is_doomed = self.is_dismissed = False  # its end was ordered; for no fault of its own
        self.ended: Ended | None = None  # how, once it has
        self.history = History()
        self._waiting_for = ""
        self._early: list[FromWorker] = []  # what it said before the spawner had told its pid
        self.number, self.slot, self.generation = number, slot, generation
        self.began = reactor.now()
        self.boot_failure: BootFailed | None = None
        self.is_leaving = self.is_admitted = False
        self.interface: Interface | None = None  # known once it is ready
        self._allowed: int | None = None
        self.limits = Limits()  # with its own jitter
        self.row_number = board.take()
        self.row = board.row(self.row_number)
        self._dropped = 0, 0
        self.pipes = Pipes(reactor, journal, app, generation, slot)
        self._stacks = StackRecord(app)
        self._inquiry = Inquiry(self, self._stacks, reactor)
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

    def newly_dropped(self) -> tuple[int, int]:
        """Bytes of output, and lines of the access log, that it had to drop since this was last asked."""
        before, self._dropped = self._dropped, (self.row[Cell.OUTPUT_DROPPED], self.row[Cell.RECORDS_DROPPED])
        return self._dropped[0] - before[0], self._dropped[1] - before[1]

    @property
    def blocked(self) -> float:
        """Seconds by which its heartbeat is late; 0 when none is due."""
        beat = self.row[Cell.HEARTBEAT_NS] / 1e9
        return max(0.0, self._reactor.now() - beat - BEAT) if beat else 0.0

    def ask_stacks(self, on_answer: OnAnswer) -> None:
        """Have `on_answer` called, within two seconds, with what its threads and tasks are doing."""
        self._inquiry.ask(on_answer, is_blocked=self.blocked > BEAT)

    def show(self) -> None:
        """Have its loop write its stacks into its record. (Ask with `ask_stacks`.)"""
        self._send(Show())

    def flight(self) -> Flight:
        """The requests that it has in hand, as its flight recorder has them."""
        return look(self._board, self.row_number, self._reactor.now())

    def last_stacks(self) -> str:
        """What a fatal signal has made it write, threads and frames as faulthandler names them; else empty."""
        return self._stacks.fatal()

    def fds_to_pass(self) -> tuple[int, int, int, int]:
        """What travels with the request to fork it: channel, stdout, stderr, the record of its stacks."""
        return self._theirs.fileno(), *self.pipes.write_ends, self._stacks.fd

    def passed(self) -> None:
        """The spawner has been sent its copies."""
        self._theirs.close()
        self.pipes.close_write_ends()

    def born(self, children: Children, pid: int) -> None:
        """It is this process."""
        if self._child is not None:  # found before its spawner could tell
            return
        self.pipes.pid = pid
        self._started = procfs.start_ticks(pid) or 0
        self._child = children.watch(pid, self._on_end)
        self._owner.on_worker_born(self)
        if self._is_doomed:
            self._child.kill()
        early, self._early = self._early, []
        for message in early:
            self._owner.on_worker_message(self, message)
        if self._search is not None:
            self._search = None
            children.fork_is_known()

    def state(self) -> record.Worker:
        """All that a master which goes on with it has to know."""
        return record.Worker(
            number=self.number,
            slot=self.slot,
            generation=self.generation,
            row=self.row_number,
            began=self.began,
            channel=self._channel.fileno(),
            pipes=self.pipes.state(),
            stacks=self._stacks.fd,
            pid=self.pid,
            started=self._started,
            why=self._why,
            is_doomed=self._is_doomed,
            is_dismissed=self.is_dismissed,
            waiting_for=self._waiting_for,
            boot_failure=self.boot_failure,
            early=tuple(map(encode, self._early)),
            is_leaving=self.is_leaving,
            is_admitted=self.is_admitted,
            interface=self.interface,
            limits=self.limits,
            dropped=self._dropped,
        )

    def resume(self, kept: record.Worker) -> None:
        """Be this worker, that an earlier master has asked for, in place of the one that was wanted. `find` is next."""
        self._close_channel()
        for mine in (self._theirs, self._stacks, self.pipes):
            mine.close()
        self._board.release(self.row_number)
        self.row_number = kept.row
        self.row = self._board.row(kept.row)
        self.pipes = Pipes(self._reactor, self._journal, self._app, self.generation, self.slot, kept.pipes)
        self._stacks = StackRecord("", kept.stacks)
        self._inquiry = Inquiry(self, self._stacks, self._reactor)
        self._why, self._is_doomed, self._waiting_for = kept.why, kept.is_doomed, kept.waiting_for
        self.is_dismissed, self._dropped, self._started = kept.is_dismissed, kept.dropped, kept.started
        self.began, self.boot_failure, self.interface = kept.began, kept.boot_failure, kept.interface
        self.is_leaving, self.is_admitted, self.limits = kept.is_leaving, kept.is_admitted, kept.limits
        self._early = list(map(from_worker, kept.early))
        if kept.channel >= 0:
            self._channel = Channel.from_fd(kept.channel)
            self._reactor.add_reader(self._channel.fileno(), self._on_message)

    def find(self, children: Children, pid: int) -> None:
        """Watch the process that it has had under an earlier master, whether it still runs or not."""
        self.pipes.pid = pid
        self._child = children.watch_again(pid, self._started, self._on_end)
        if self._is_doomed:
            self._child.kill()

    def adopted(self, master: Adopted) -> None:
        """Tell it who its master is now; take in what it has said, and look on the board whether it is there."""
        self._send(master)
        self._on_message()
        self._look_for_it()

    def not_asked_for(self, reason: str) -> None:
        """It is not wanted any more, or can't be had, before its fork was asked for."""
        self.passed()
        self._end_unborn(reason)

    def fork_lost(self, children: Children, reason: str) -> None:
        """Nobody will tell its pid: find it by its first word or on the board, unless the channel shows its absence.

        Until then `children` goes on counting the fork as on its way.
        """
        self._search = children, reason
        if self._channel.fileno() < 0:
            self._on_silence()
        elif self._early or self._is_doomed:
            self._look_for_it()

    def admit(self, inheritance: int) -> None:
        """It is ready, and still wanted: have it take connections, and give it the hand-over queue's taking end."""
        self.is_admitted = True
        self._send(Admit(), [inheritance])

    def inherit(self, share: int | None) -> None:
        """Have it take over connections of others, at once until it has `share` of them, or (None) none."""
        self._send(Inherit(share))

    def lend(self, connections: int, outlet: int) -> None:
        """Have it give so many of its connections away by `outlet`, the hand-over queue's giving end; 0: no more."""
        self._send(Lend(connections), [outlet] if connections else [])

    def allow(self, connections: int | None) -> None:
        """Hold it to so many connections in all, or (None) to none but its own limits."""
        if connections != self._allowed:
            self._allowed = connections
            self._send(Allow(connections))

    def probe(self) -> None:
        """Have it say whether it is still ready."""
        self._send(Probe())

    def survey(self, seconds: float, frames: int) -> None:
        """Have it tell what it holds, and what it allocates within so many seconds, and in how deep a stack."""
        self._send(Survey(seconds, frames))

    def drain(self, timeout: float, linger: float | None, outlet: int | None = None, *, sweep: bool = False) -> None:
        """Have it hand over what can go by `outlet`, the hand-over queue's giving end, finish the rest, and leave."""
        self.is_leaving = True
        self._send(Drain(timeout, linger, sweep), [] if outlet is None else [outlet])

    def reopen_logs(self, access_log: int) -> None:
        """Give it the access log's new file."""
        self._send(ReopenLogs(), [access_log])

    def remember(self, now: float, rss_bytes: int) -> None:
        """Have a sample of now in its history."""
        self.history.add(now, self.lag_ms(now), rss_bytes, self.inflight)

    def lag_ms(self, now: float) -> float:
        """How late its event loop is: at its last turn, or by now, if that turn is still awaited."""
        beat = self.row[Cell.HEARTBEAT_NS]
        late = now - beat / 1e9 - BEAT if beat else 0.0
        return round(1e3 * max(0.0, self.row[Cell.LAG_NS] / 1e9, late), 3)

    def dismiss(self, why: str) -> None:
        """End it now, for no fault of its own."""
        self.is_dismissed = True
        self.kill(why)

    def kill(self, why: str) -> None:
        """End it now."""
        self._why = self._why or f"{why}{f' ({self._waiting_for})' if self._waiting_for else ''}"
        self._is_doomed = True
        self._look_for_it()
        self.signal(signal.SIGKILL)

    def abort(self, why: str) -> None:
        """End it so that it leaves its stacks first: by ABRT, and by KILL when it is still there after `ABORT_TIME`."""
        self._why = self._why or why
        self._is_doomed = True
        self.signal(signal.SIGABRT)
        self._reactor.call_later(ABORT_TIME, lambda: self.kill(why))

    def signal(self, number: int) -> bool:
        """Send a signal; False when it has no process any more, or not yet."""
        return self._child is not None and self._child.signal(number)

    def _send(self, message: ToWorker, fds: Sequence[int] = ()) -> None:
        # A worker that is gone is told of by its pidfd; one that reads nothing is ended by its deadline.
        with contextlib.suppress(OSError):
            self._channel.send(encode(message), fds)

    def _on_message(self) -> None:
        while self._channel.fileno() >= 0:
            try:
                data = self._channel.receive_data()
            except BlockingIOError:
                return
            if data is None:
                self._close_channel()
                self._on_silence()
                return
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
            self._look_for_it()
        else:
            self._owner.on_worker_message(self, message)

    def _look_for_it(self) -> None:
        if self._search is not None and (pid := self.row[Cell.PID]):
            self.born(self._search[0], pid)

    def _on_silence(self) -> None:
        """The channel has ended: so has the worker, or it never was."""
        if self._search is not None:
            children, reason = self._search
            self._search = None
            self._end_unborn(reason)
            children.fork_is_known()

    def _end_unborn(self, reason: str) -> None:
        self.pipes.drain()
        self._finish(self._why or reason)
        self._board.release(self.row_number)

    def _on_end(self, ended: Ended) -> None:
        self.ended = ended
        self._on_message()
        if ended.is_clean and self.is_leaving:
            reason = ""
        elif self._why and ended.signal in (signal.SIGKILL, signal.SIGABRT):
            reason = f"{self._why}; {ended}"
        elif not self._why and self._child is not None and self._child.killer:
            reason = f"{ended}, sent by {self._child.killer}"
        else:
            reason = self._why or str(ended)
        self.pipes.drain()
        self._finish(reason)
        self._board.release(self.row_number)

    def _finish(self, reason: str) -> None:
        self._close_channel()
        self._inquiry.end()
        self._owner.on_worker_end(self, reason)
        self._stacks.close()

    def _close_channel(self) -> None:
        if self._channel.fileno() >= 0:
            self._reactor.remove_reader(self._channel.fileno())
            self._channel.end()
