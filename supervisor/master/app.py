"""One app: runs its two machines, the fleet of slots and the roll, and carries out what they decide.

Invariants:
- All decisions are the machines'. News goes into one queue, is taken one at a time, and what follows from it is done
  before the next is looked at: no command ever runs inside another.
- A generation's spawner lives as long as some slot wants the generation, or it is the committed one or the one rolled
  to; a listening socket as long as the committed settings or those being rolled to name it.
"""

from __future__ import annotations

import math
import random
import signal
from typing import Protocol

from supervisor.config.settings import AppSettings, Span
from supervisor.errors import UserError
from supervisor.fleet import records as seats
from supervisor.fleet.fleet import generations, standing
from supervisor.kernel.board import Board
from supervisor.kernel.descriptors import have_room
from supervisor.kernel.reactor import Reactor
from supervisor.master.access import AccessFiles
from supervisor.master.accounts import Accounts
from supervisor.master.children import Children
from supervisor.master.crashes import Crashes
from supervisor.master.engine import Command, Engine
from supervisor.master.estate import Estate
from supervisor.master.generations import Releases
from supervisor.master.hooks import Hooks
from supervisor.master.listeners import Listeners
from supervisor.master.news import Loss, News
from supervisor.master.relay import Relay
from supervisor.master.releases import DESCRIPTORS, Release, wanted_workers
from supervisor.master.rollout import Rollout
from supervisor.master.stallnews import StallNews
from supervisor.master.store import SocketStore
from supervisor.master.watch import Watch
from supervisor.master.worker import Worker
from supervisor.messages.status import AppState, Begun
from supervisor.messages.wire import Erred, FromWorker, Imported, Probed, Ready
from supervisor.observe.crash import CrashStore
from supervisor.observe.journal import Journal
from supervisor.reload import records as rolls
from supervisor.watch import limits
from supervisor.watch.scale import Pulse


class AppOwner(Protocol):
    """Who is told how an app fares, and keeps its sockets when it goes."""

    sockets: SocketStore

    def on_first_start_failed(self, app: App, reason: str) -> None: ...
    def on_app_settled(self, app: App) -> None: ...


class App:
    """Made from settings; opens nothing and starts nothing before `start`."""

    def __init__(
        self,
        owner: AppOwner,
        settings: AppSettings,
        reactor: Reactor,
        children: Children,
        journal: Journal,
        store: CrashStore,
    ) -> None:
        self._owner = owner
        self._reactor = reactor
        self._children = children
        self._journal = journal
        self.was_up = False  # has had a ready worker since it was started
        self.starts_again = False
        self.told_state: AppState = "stopped"
        self.name = settings.name
        self.settings = settings  # of the committed release
        self.generation = 0  # the newest, whatever became of it
        self.count = 0
        self.held: set[int] = set()  # slots stopped by hand
        self.is_stopping = False
        self.longest_linger = math.inf  # seconds; a stop in a hurry bounds what the settings grant idle connections
        self.board = Board(settings.name)
        self.listeners = Listeners(settings.name, owner.sockets)
        self.relay = Relay()
        self.estate: Estate | None = None  # what is left to its processes, if the master is killed
        self.access = AccessFiles()
        self.hooks = Hooks(reactor, children, journal, settings.name)
        self.accounts = Accounts()
        self._crashes = Crashes(settings.name, store)
        self.news = News(journal, settings.name)
        self.workers: dict[int, Worker] = {}
        self.releases = Releases(self, reactor, children, journal)
        self.rollout = Rollout(self, reactor)
        self.watch = Watch(self, reactor, StallNews(journal, settings.name))
        fleet = seats.Fleet(settings.boot_timeout, settings.drain_timeout)
        self.engine = Engine(reactor, fleet, self._do, self._settle_down)

    # What others ask for

    @property
    def state(self) -> AppState:
        if self.engine.roll.is_under_way and not self.is_stopping:
            return "rolling"
        state = standing(self.engine.fleet)
        return "degraded" if state == "running" and self.watch.restraint.is_degraded else state

    @property
    def is_complete(self) -> bool:
        """Every slot that is wanted is served."""
        return all(slot.is_ready for slot in self.engine.fleet.slots.values() if slot.want is not None)

    @property
    def has_left(self) -> bool:
        """Stopped, and no worker is left. A spawner that does not leave by itself serves nobody."""
        return self.state == "stopped" and not self.workers

    @property
    def is_idle(self) -> bool:
        """Stopped, and nothing of it is left: no process that could still hold a listening socket."""
        return self.has_left and not self.releases.have_spawners

    def open(self, settings: AppSettings) -> None:
        """Open what these settings name and is not open: sockets, access log. Raises `UserError`, also for a release's
        user or secrets that can't be had."""
        self.releases.check(settings)
        self.listeners.ensure(settings)
        self.access.ensure(settings.access_log)

    def close_unused(self) -> None:
        """Close what the committed settings do not name, unless a roll may need it."""
        if not self.is_stopping and not self.engine.roll.is_under_way:
            self.access.keep_only(self.settings.access_log)
            for bound in self.listeners.keep_only(self.settings.bind):
                self.news.unbound(bound)

    def start(self, only: int | None = None) -> None:
        """Start a new generation from a standstill, all slots or one of them; `open` has been called."""
        self.generation += 1
        self.is_stopping = self.was_up = False
        self.rollout.forget_previous()
        self.watch.scaler.resume()
        self.count = self.rollout.next_count = wanted_workers(self.settings)
        everyone = set(range(1, self.count + 1))
        self.held = everyone - {only} if only in everyone else set()
        self.engine.roll = rolls.Roll(self.generation, self.generation)
        self.releases.add(self.generation, self.settings).start()
        self.engine.post(
            self.surplus(),
            seats.Terms(self.settings.boot_timeout, self.settings.drain_timeout),
            seats.Want(dict.fromkeys(self.held) | dict.fromkeys(self.slots(), self.generation)),
        )

    def stop(self, *, and_start: bool = False) -> None:
        """Drain all workers and close the listening sockets; `and_start`: keep them, and begin anew once all left."""
        self.is_stopping, self.starts_again = True, and_start
        self.hooks.stop()
        if not and_start:
            self.listeners.close()
        for number in self.engine.fleet.leaving.keys() & self.workers.keys():
            self._drain(self.workers[number])  # again: nobody will be there to hand over to
        self.engine.post(
            rolls.Abort("the app was stopped"),
            seats.Want(dict.fromkeys(range(1, self.count + 1), None)),
        )

    def start_once_stopped(self) -> None:
        """It is on its way out: begin anew when that is done."""
        self.starts_again = True

    def kill(self) -> None:
        """End everything of it now."""
        self.is_stopping = True
        self.engine.post(seats.Want(dict.fromkeys(self.engine.fleet.slots, None)))
        self.releases.kill("stopped at once")
        self.hooks.stop(signal.SIGKILL)
        for worker in list(self.workers.values()):
            worker.dismiss("stopped at once")

    def reload(self, settings: AppSettings) -> Begun:
        """Roll to a new release with these settings, for which `open` has been called."""
        self.generation += 1
        self.releases.add(self.generation, settings)
        added = [address for address in settings.bind if address not in self.settings.bind]
        self.news.bound([listener.bound for listener in self.listeners.of(added)])
        return self.rollout.begin(self.generation, settings, settings.bake)

    def scale(self, count: int, why: str, pulses: tuple[Pulse, ...] = ()) -> None:
        """Have this many slots. `pulses` is what an automatic decision was made from."""
        self.news.scaled(self.count, count, why, pulses)
        known = self.engine.fleet.slots  # those beyond `self.count` are the roll's
        added = {number: self.engine.roll.base for number in range(self.count + 1, count + 1) if number not in known}
        self.count = self.rollout.next_count = count
        self.engine.post(self.surplus(), seats.Want(added), rolls.SlotsChanged(self.slots()))

    def hold(self, slot: int) -> None:
        """Stop one slot until `release_slot`."""
        self.held.add(slot)
        self.engine.post(seats.Want({slot: None}), rolls.SlotsChanged(self.slots()))

    def release_slot(self, slot: int) -> None:
        """Start a slot that was stopped by hand."""
        self.held.discard(slot)
        self.engine.post(seats.Want({slot: self.engine.roll.base}), rolls.SlotsChanged(self.slots()))

    def recycle(self, slot: int, why: str, *, insist: bool = False) -> None:
        """Replace a slot's worker, new one first."""
        self.engine.post(seats.Recycle(slot, why, insist))

    def max_memory(self, settings: AppSettings) -> int | None:
        """Bytes of RSS that a worker with these settings may have, among as many workers as there are to be."""
        available = self.watch.wear.available_memory(self._reactor.now())
        most = settings.workers.most if isinstance(settings.workers, Span) else 0
        return limits.max_memory(settings.max_memory, available, max(most, self.rollout.next_count))

    def slots(self) -> tuple[int, ...]:
        """The numbers of all slots that are to be served once no roll is under way any more."""
        count = self.count if self.engine.roll.phase is rolls.Phase.ROLLING_BACK else self.rollout.next_count
        return tuple(number for number in range(1, count + 1) if number not in self.held)

    def reopen_logs(self) -> None:
        """The log files were moved away: write to new ones. Raises `SurroundingsError` and then keeps the old."""
        self.access.reopen()
        for worker in self.workers.values():
            if (fd := self.access.fd_of(self.releases[worker.generation].settings.access_log)) is not None:
                worker.reopen_logs(fd)

    def close(self) -> None:
        """Let go of everything; no process of it is left."""
        self.engine.close()
        self.relay.close()
        self.listeners.close()
        self.access.close()
        self.board.close()
        if self.estate is not None:
            self.estate.close()

    # What spawners and workers tell

    def on_preloaded(self, release: Release, imported: Imported) -> None:
        self.news.preloaded(release, imported)
        self.engine.post(rolls.Preloaded(release.generation))

    def on_spawner_lost(self, release: Release, reason: str, retry_in: float, *, was_ready: bool) -> None:
        self.rollout.spawner_lost(release.generation, reason)
        if self._is_rolled_to(release.generation):
            kind = rolls.SpawnerLost if was_ready else rolls.PreloadFailed
            self.engine.post(kind(release.generation, reason))
        elif not was_ready and self._is_first_start(release.generation):
            self._owner.on_first_start_failed(self, reason)
        elif release.generation in (self.engine.roll.base, *generations(self.engine.fleet)):
            are_serving = any(slot.is_ready for slot in self.engine.fleet.slots.values())
            self.news.spawner_lost(release, reason, retry_in, are_serving=are_serving)

    def on_last_errors(self, lines: list[str]) -> None:
        self.news.failure_output = lines

    def on_spawner_left(self) -> None:
        self._settle_down()

    def _is_rolled_to(self, generation: int) -> bool:
        return self.engine.roll.is_under_way and generation == self.engine.roll.target

    def _is_first_start(self, generation: int) -> bool:
        """It never served, and no newer release is on its way that may."""
        return generation == 1 and not (self.was_up or self.is_stopping or self.engine.roll.is_under_way)

    def on_worker_born(self, worker: Worker) -> None:
        self.news.started(worker)

    def on_worker_message(self, worker: Worker, message: FromWorker) -> None:
        if isinstance(message, Ready) and worker.is_admitted:
            return  # to an earlier master
        if isinstance(message, Ready):
            self.was_up = True
            worker.interface = message.interface
            slot = self.engine.fleet.slots.get(worker.slot)
            if slot is not None and slot.trial == worker.generation:
                self.rollout.trial.admit(worker)
            worker.admit(self.relay.taking_end)
            self.news.ready(worker, self._reactor.now() - worker.began)
            self.engine.post(seats.BecameReady(worker.number))
        elif isinstance(message, Erred):
            self.rollout.trial.look()
        elif isinstance(message, Probed):
            self.rollout.trial.probed(worker, message.status)
        else:
            self.watch.hear(worker, message)

    def on_worker_end(self, worker: Worker, reason: str) -> None:
        del self.workers[worker.number]
        self.watch.surveys.ended(worker)
        self.news.dropped(worker, *worker.newly_dropped())
        lost = self.accounts.fold(worker)
        self.rollout.book.ended(worker)
        now = self._reactor.now()
        restarts = self.accounts.by_slot.get(worker.slot, 0)
        crash = self._crashes.ended(worker, reason, self.releases[worker.generation], restarts, now)
        failure = worker.boot_failure
        if failure is not None and failure.kind == "import" and self._is_first_start(worker.generation):
            self._owner.on_first_start_failed(self, failure.reason)
        if self._is_rolled_to(worker.generation):
            self.news.failure_output = worker.pipes.last_errors()
        is_leaving = worker.number in self.engine.fleet.leaving
        self.news.ended(worker, Loss(reason, now - worker.began, lost, crash), is_leaving=is_leaving)
        self.engine.post(seats.Gone(worker.number, reason or "left without being told to", random.random()))  # noqa: S311  # jitter

    # What the machines decide

    def _do(self, command: Command) -> None:
        """Carry out one command. News that follows from it is queued, not looked at."""
        if isinstance(command, seats.Spawn):
            self._spawn(command)
        elif isinstance(command, seats.Drain | seats.Kill) and command.worker not in self.workers:
            pass  # it never came to be, and its end is on its way to the fleet
        elif isinstance(command, seats.Drain):
            self._drain(self.workers[command.worker])
        elif isinstance(command, seats.Kill):
            self._kill(command)
        elif isinstance(command, seats.Settled):
            self.engine.post(rolls.Settled(command.slot, command.generation))
        elif isinstance(command, seats.Joined):
            self.engine.post(rolls.Joined(command.slot, command.generation))
        elif isinstance(command, seats.Died):
            self._died(command)
        elif isinstance(command, seats.Recycling):
            self.news.recycling(self.workers[command.worker], command.why)
        else:
            self.rollout.do(command)

    def _spawn(self, command: seats.Spawn) -> None:
        if not have_room(DESCRIPTORS):  # asked before anything is opened: half a worker could not be told from a whole
            reason = "the master has too many open files"
            self.news.unborn(command.worker, command.slot, command.generation, reason)
            self.engine.post(seats.Gone(command.worker, reason, random.random()))  # noqa: S311  # jitter
            return
        release = self.releases[command.generation]
        who = command.generation, command.slot, command.worker
        worker = Worker(self, self._reactor, self._journal, self.board, self.name, *who)
        chances = random.random(), random.random()  # noqa: S311  # jitter
        worker.limits = limits.of_worker(release.settings.max_requests, release.settings.max_age, chances)
        worker.pipes.give_to(release.place.identity)
        self.workers[worker.number] = worker
        self.watch.begin()
        release.fork(worker)

    def _drain(self, worker: Worker) -> None:
        if self.watch.stalls.takes_leave(worker):
            return
        settings = self.releases[worker.generation].settings
        goes_for_good = self.is_stopping or worker.slot in self.held
        linger = min(settings.idle_linger, self.longest_linger) if goes_for_good else None
        hands_over = not self.is_stopping and self.relay.leave(worker, self.engine.fleet, self.workers)
        outlet = self.relay.giving_end if hands_over else None
        worker.drain(settings.drain_timeout, linger, outlet, sweep=self.is_stopping)

    def _kill(self, command: seats.Kill) -> None:
        worker = self.workers[command.worker]
        if self.releases[worker.generation].forget(worker):
            worker.not_asked_for(command.why)
        elif command.is_fault:
            worker.kill(command.why)
        else:
            worker.dismiss(command.why)

    def _died(self, command: seats.Died) -> None:
        if command.retry_in is not None:
            self.accounts.restarted(command.slot)
        self.news.died(command)
        self.engine.post(rolls.Failed(command.slot, command.generation, command.reason))

    def surplus(self) -> seats.Remove:
        """Slots beyond the count are nobody's, and are not remembered as stopped by hand either."""
        surplus = frozenset(number for number in self.engine.fleet.slots if number > self.count)
        self.held -= surplus
        return seats.Remove(surplus)

    def _settle_down(self) -> None:
        """The machines have nothing more to say for now: drop what nobody needs, and tell how the app is."""
        self._tidy()
        self.relay.settle(self.engine.fleet, self.workers)
        if self.state != self.told_state and (self.state != "stopped" or self.has_left):
            self.told_state = self.state
            self.news.state_changed(self.told_state, self.watch.restraint.why)
        self._owner.on_app_settled(self)
        if self.is_stopping and self.is_idle and self.starts_again:
            self._begin_again()

    def _begin_again(self) -> None:
        self.starts_again = False
        try:
            self.open(self.settings)
        except UserError as error:
            self.news.not_started(str(error))
            return
        self.start()

    def _tidy(self) -> None:
        roll, fleet = self.engine.roll, self.engine.fleet
        needed = {roll.base, roll.target, self.rollout.previous} | generations(fleet)
        self.releases.keep_only(set() if self.is_stopping else needed)
        self.accounts.keep_only({roll.base, roll.target})
        self.close_unused()
