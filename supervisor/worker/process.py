"""A worker from fork to exit: boot, serve, drain, leave.

Invariants:
- It tells `Ready` once, and only when a connection that it took now would be served; it takes none before the master,
  who may not want it any more, has answered.
- It never closes a connection under a request before `drain_timeout` is over.
- Without a master (its end of the channel closed) it drains and leaves by itself.
- It ends by returning from `run`, so that the app's own exit hooks run in it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import traceback
from typing import Literal

import uvloop

from supervisor.errors import AppError, ProtocolError
from supervisor.kernel.board import Cell, WorkerState, open_row
from supervisor.kernel.channel import Channel, NoRoomError
from supervisor.kernel.memory import let_go_of_zeros
from supervisor.kernel.title import set_title
from supervisor.messages.wire import (
    Admit,
    Adopted,
    Allow,
    BootFailed,
    Drain,
    Erred,
    Faltered,
    FromWorker,
    Inherit,
    Lend,
    Probe,
    Probed,
    Ready,
    ReopenLogs,
    Show,
    Survey,
    Surveyed,
    ToWorker,
    TurnedAway,
    encode,
    to_worker,
)
from supervisor.serve.access.line import Writer
from supervisor.serve.access.log import AccessLog
from supervisor.serve.service import Service
from supervisor.worker.acceptor import Acceptor
from supervisor.worker.admission import Admission
from supervisor.worker.heartbeat import Heartbeat
from supervisor.worker.hooks import WorkerHooks
from supervisor.worker.inheritor import Inheritor
from supervisor.worker.orphan import Orphan
from supervisor.worker.output import count_drops
from supervisor.worker.readiness import ask_again, wait_until_ready
from supervisor.worker.seat import Seat
from supervisor.worker.witness import Witness

ERRORS_TOLD = 50  # answers of a worker on trial that are told one by one; the master looks by itself, too


def run(seat: Seat) -> int:
    """Live as a worker; the result is the exit status."""
    for pipe, standard in ((seat.stdout, 1), (seat.stderr, 2)):
        os.dup2(pipe, standard, inheritable=True)
        os.close(pipe)
    worker = Worker(seat)
    try:
        return worker.live()
    except BaseException as error:  # the loop itself was ended by what the app raised: tell it, with its traceback
        if isinstance(error, SystemExit) and worker.is_leaving:
            raise
        traceback.print_exc()
        worker.tell(Faltered(f"{type(error).__name__}: {error}".removesuffix(": ")))
        return 1


BootStep = Literal["import", "lifespan", "other"]


class BootError(AppError):
    """The app could not be brought up; `step` says at what."""

    def __init__(self, step: BootStep, reason: str) -> None:
        super().__init__(reason)
        self.step = step


class Worker:
    """One process's loop and what hangs on it."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._row = open_row(seat.board, seat.row)
        os.close(seat.board)  # the other rows are nobody's business here
        self._row[Cell.PID] = os.getpid()
        count_drops(self._row)
        self._channel = Channel.from_fd(seat.channel)
        self._enter(WorkerState.STARTING)
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        let_go_of_zeros(id(self._loop), self._loop.__sizeof__())  # its read buffer of 256 KB, used as far as reads go
        asyncio.set_event_loop(self._loop)
        self._witness = Witness(seat.stacks, self._loop)
        self._heartbeat = Heartbeat(self._loop, self._row)
        self._orphan = Orphan(self._loop, seat.trustee, seat.slot, self) if seat.trustee is not None else None
        self._service: Service | None = None
        self._acceptor: Acceptor | None = None
        self._inheritor: Inheritor | None = None
        self._access: AccessLog | None = None
        self._shortages = 0
        self._allowed: int | None = None  # connections in all
        self._errors_told = 0
        self._probing: asyncio.Task[None] | None = None
        self._admission = Admission(self._loop, self._row, self.tell, self._title)
        self._empty = self._loop.create_future()
        self._hooks = WorkerHooks()
        self._has_begun = False
        self.is_leaving = False

    def live(self) -> int:
        """Boot, serve until told to leave, shut down. Returns the exit status."""
        loop = self._loop
        loop.add_reader(self._channel.fileno(), self._on_message)
        loop.add_signal_handler(signal.SIGTERM, self._leave, Drain(self._seat.settings.drain_timeout, None))
        self._heartbeat.start()
        if self._orphan is not None:
            self._orphan.watch()
        try:
            self._arrive()
            loop.run_until_complete(self._boot())
        except BootError as error:
            if self.is_leaving:
                return self._take_leave(0)
            self.tell(BootFailed(error.step, str(error)))
            return self._take_leave(1)
        loop.run_until_complete(self._empty)
        assert self._service is not None
        loop.run_until_complete(self._service.shutdown())
        self._heartbeat.stop()
        if self._access is not None:
            self._access.close()
        return self._take_leave(0)

    def tell(self, message: FromWorker) -> None:
        """Send to the master; a master that is gone or does not read is no reason to stop serving."""
        try:
            self._channel.send(encode(message))
        except OSError:
            return

    def _arrive(self) -> None:
        """`after_fork`, before the event loop runs."""
        try:
            self._hooks = self._seat.load_hooks()
        except AppError as error:
            raise BootError("import", str(error)) from None
        self._call("after_fork")

    def _call(self, hook: str) -> None:
        try:
            self._hooks.call(hook, self._seat.worker)
        except AppError as error:
            raise BootError("other", str(error)) from None

    def _take_leave(self, status: int) -> int:
        """`on_worker_exit`, if it had come to `on_worker_start`; a failure of it shows in the exit status."""
        if self._orphan is not None:
            for fd in () if self._acceptor is not None else self._seat.listeners:
                os.close(fd)  # it was never admitted
            self._orphan.take_leave()
        try:
            if self._has_begun:
                self._call("on_worker_exit")
        except BootError:
            return status or 1
        return status

    async def _boot(self) -> None:
        seat, settings = self._seat, self._seat.settings
        try:
            app, interface = seat.load()
        except AppError as error:
            raise BootError("import", str(error)) from None
        self._has_begun = True
        self._call("on_worker_start")
        if seat.access_log is not None:
            writer = Writer(f"{settings.name}:{seat.slot}", seat.generation, os.getpid())
            self._access = AccessLog(
                seat.access_log,
                seat.log_format,
                writer,
                loop=self._loop,
                row=self._row,
                template=settings.access_log_format,
            )
        service = Service(
            app=app,
            interface=interface,
            settings=settings,
            row=self._row,
            loop=self._loop,
            access_log=self._access,
            on_room=self._on_room,
            on_empty=self._on_empty,
            on_turned_away=lambda requests, seconds: self.tell(TurnedAway(requests, seconds)),
        )
        service.use_tls(seat.tls)
        try:
            await service.startup()
        except AppError as error:
            raise BootError("lifespan", str(error)) from None
        if settings.ready_path is not None:
            await wait_until_ready(service, settings.ready_path, lambda: not self.is_leaving, self.tell)
        self._service = service
        self._heartbeat.look_after(service.bridge.pool, settings, self.tell)
        if not self.is_leaving:
            self._enter(WorkerState.READY)
            self.tell(Ready(interface))
        else:
            self._on_empty()

    async def _probe(self, service: Service) -> None:
        self.tell(Probed(await ask_again(service, self._seat.settings.ready_path)))

    def _take_connections(self, service: Service) -> None:
        listeners = [socket.socket(fileno=fd) for fd in self._seat.listeners]
        limit = self._seat.settings.lag_limit if service.owns_loop else 0.0
        self._acceptor = Acceptor(
            self._loop,
            listeners,
            service,
            self._row,
            self._on_shortage,
            self._admission.door,
            lambda: 0 < limit < self._heartbeat.lag(),
        )
        service.on_crowd = self._acceptor.look
        self._admission.begin(service, self._acceptor, limit, self._on_room)
        self._heartbeat.tell(self._on_tick)
        self._acceptor.allow(self._allowed)
        self._acceptor.open()

    # What the master and the surroundings say

    def _on_tick(self, lag: float, now: float) -> None:
        self._admission.feel(lag, now)
        self._witness.picture(now)

    def _on_message(self) -> None:
        while True:
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            except NoRoomError as error:  # whoever has no descriptor left must be able to leave all the same
                received = error.data, []
            if received is None:
                self._loop.remove_reader(self._channel.fileno())
                print("holdfast: the master is gone; this worker finishes what it has and leaves", file=sys.stderr)
                self.forsaken()
                return
            data, fds = received
            try:
                message = to_worker(data)
            except ProtocolError:  # a newer master's, who does without an answer
                pass
            else:
                self._obey(message, fds)
            for fd in fds:
                os.close(fd)

    def _obey(self, message: ToWorker, fds: list[int]) -> None:
        """Do what the master says; what is taken of `fds` is ours. Without those that should be there, do what can be
        done without."""
        if isinstance(message, ReopenLogs) and self._access is not None:
            if fds:
                self._access.reopen(fds.pop())
            else:
                print("holdfast: no descriptor left for the new access log: the old one is kept", file=sys.stderr)
        elif isinstance(message, Drain):
            self._leave(message, Channel.from_fd(fds.pop()) if fds else None)
        elif isinstance(message, Inherit):
            if self._inheritor is not None and not self.is_leaving:
                self._inheritor.inherit(message.share)
        elif isinstance(message, Show):
            self._witness.show(3)  # with `_obey` and `_on_message`
        elif isinstance(message, Allow):
            self._allow(message.connections)
        elif isinstance(message, Lend) and self._service is not None and not self.is_leaving:
            self._service.roster.lend(Channel.from_fd(fds.pop()) if fds else None, message.connections)
        elif isinstance(message, Survey):
            self._survey(message)
        elif isinstance(message, Probe) and self._service is not None:
            self._probing = self._loop.create_task(self._probe(self._service))
        elif isinstance(message, Adopted) and self._orphan is not None:
            self._orphan.obey(message)
        elif isinstance(message, Admit) and self._service is not None and not (self.is_leaving or self._acceptor):
            self._take_connections(self._service)
            if fds:
                self._inheritor = Inheritor(self._loop, Channel.from_fd(fds.pop()), self._service, self._on_shortage)

    def forsaken(self) -> None:
        """There is no master, and will be none: finish and leave."""
        self._leave(Drain(self._seat.settings.drain_timeout, None, sweep=True))

    def _survey(self, asked: Survey) -> None:
        from supervisor.worker import survey  # with tracemalloc and all: for those who are asked

        survey.Survey(self._loop, asked.seconds, asked.frames, lambda heap: self.tell(Surveyed(heap)))

    def _allow(self, connections: int | None) -> None:
        """Held to a number of connections, it is on trial: then the master is to hear of errors at once."""
        self._allowed = connections
        if self._acceptor is not None:
            self._acceptor.allow(connections)
        if self._service is not None:
            self._service.watch_errors(None if connections is None else self._on_error)

    def _on_error(self) -> None:
        if self._errors_told < ERRORS_TOLD:
            self._errors_told += 1
            self.tell(Erred())

    def _leave(self, drain: Drain, outlet: Channel | None = None) -> None:
        """Take no more, give away what can go by `outlet`, finish the rest, then end. What is left after the timeout is
        cut. Told again, it keeps what it has."""
        again, self.is_leaving = self.is_leaving, True
        if not again:
            self._admission.end()
            self._enter(WorkerState.DRAINING)
        if self._acceptor is not None and not again:
            self._acceptor.close(sweep=drain.sweep)
        if self._inheritor is not None:
            self._inheritor.inherit(None)
            if drain.sweep and not self._empty.done():
                self._inheritor.sweep()
        if self._service is None:
            return
        if again and outlet is not None:
            self._service.roster.give(outlet)
        elif again:
            self._service.keep(drain.linger)
        else:
            self._service.drain(drain.linger, outlet)
            self._loop.call_later(drain.timeout, self._cut, self._service)

    def _cut(self, service: Service) -> None:
        service.cut()
        self._on_empty()

    def _on_empty(self) -> None:
        if self.is_leaving and not self._empty.done():
            self._empty.set_result(None)

    # Admission

    def _on_room(self) -> None:
        if self.is_leaving:
            return
        if self._acceptor is not None:
            self._acceptor.open()
        if self._inheritor is not None:
            self._inheritor.resume()

    def _on_shortage(self, error: OSError) -> None:
        if self._shortages == 0:
            print(f"holdfast: can't accept connections for the moment: {error.strerror}", file=sys.stderr)
        self._shortages += 1

    def _enter(self, state: WorkerState) -> None:
        self._row[Cell.STATE] = state
        self._title(state.name.lower())

    def _title(self, state: str) -> None:
        seat = self._seat
        set_title(f"{seat.settings.name} g{seat.generation} w{seat.slot} {state}")
