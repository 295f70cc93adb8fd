"""The watch over one app's event loops and threads: who is blocked is named with stack and request, and in the end
killed.

Invariants:
- A block is told while it lasts; what is told is decided by `watch.stall` alone, from the workers' rows on the board.
- A worker is killed for it only with a grant, after its last stacks were told, and once its heir serves, if there can
  be one: the wait for that is bounded. One whose loop turns again meanwhile drains, like any that is replaced.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from supervisor.config.settings import AppSettings
from supervisor.kernel.board import Cell
from supervisor.kernel.reactor import Reactor, Timer
from supervisor.master.accounts import Accounts
from supervisor.master.engine import Engine
from supervisor.master.generations import Releases
from supervisor.master.stallnews import StallNews
from supervisor.master.worker import Worker
from supervisor.messages.stacks import Stacks, WorkerStacks
from supervisor.messages.wire import Stuck, Unstuck
from supervisor.watch.stall import BEAT, Began, Ended, Limits, Sample, TimedOut, Verdict, Watched, is_calm, step

HEIR_TIME = 10.0  # seconds at most that a blocked worker is left alive so that its heir may be there first

MayKill = Callable[[Worker, str], bool]


class StallsOwner(Protocol):
    """The app."""

    settings: AppSettings
    name: str
    workers: dict[int, Worker]
    engine: Engine
    releases: Releases
    accounts: Accounts
    is_stopping: bool

    def recycle(self, slot: int, why: str, *, insist: bool = False) -> None: ...


class _Sentence(Struct, frozen=True):
    """A worker is to be killed for `why`, once it is told to leave, and at the latest at `ends`."""

    why: str
    ends: float


class Stalls:
    """Looks by itself from `begin` on, as long as there are workers."""

    def __init__(self, owner: StallsOwner, reactor: Reactor, news: StallNews, may_kill: MayKill) -> None:
        self._owner = owner
        self._reactor = reactor
        self._news = news
        self._may_kill = may_kill
        self._timer: Timer | None = None
        self._looked = 0.0
        self._limits: dict[int, Limits] = {}  # by generation
        self._watched: dict[int, Watched] = {}  # by worker
        self._sentences: dict[int, _Sentence | None] = {}  # by worker; None: its last stacks are being asked for

    def begin(self) -> None:
        """There are workers."""
        if self._timer is None:
            self._looked = self._reactor.now()
            self._look_and_wait()

    def is_stalled(self, worker: Worker) -> bool:
        """Its loop is blocked, and that was told."""
        watched = self._watched.get(worker.number)
        return watched is not None and watched.is_blocked

    def inquire(self, slot: int, on_answer: Callable[[Sequence[WorkerStacks]], None]) -> None:
        """Ask all processes of a slot what they do, the youngest first in the answer."""
        workers = [it for it in self._owner.workers.values() if it.slot == slot and it.pid]
        found: dict[int, WorkerStacks] = {}

        def take(worker: Worker, blocked: float, stacks: Stacks) -> None:
            found[worker.number] = WorkerStacks(
                app=self._owner.name,
                slot=slot,
                pid=worker.pid,
                generation=worker.generation,
                state=self._state(worker),
                blocked_s=round(blocked, 3) if blocked > BEAT else 0.0,
                stacks=stacks,
            )
            if len(found) == len(workers):
                on_answer([found[number] for number in sorted(found, reverse=True)])

        for worker in workers:
            worker.ask_stacks(functools.partial(take, worker, worker.blocked))

    def takes_leave(self, worker: Worker) -> bool:
        """It is to leave. Whether that is done: one that is sentenced, and still blocked, would not hear of it."""
        sentence = self._sentences.get(worker.number)
        if sentence is None or not self._is_past(worker):
            return False
        self._execute(worker, sentence)
        return True

    def on_stuck(self, worker: Worker, stuck: Stuck) -> None:
        """A thread of its has been at one request for long."""
        self._owner.accounts.stalls += 1
        worker.ask_stacks(lambda stacks: self._news.stuck(worker, stuck, stacks, self._home(worker)))

    def on_unstuck(self, worker: Worker, unstuck: Unstuck) -> None:
        """That request is over."""
        self._news.unstuck(worker, unstuck)

    def _look_and_wait(self) -> None:
        self._timer = None
        if not self._owner.workers:
            return
        generations = {worker.generation for worker in self._owner.workers.values()}
        self._limits = {it: self._limits.get(it) or _limits(self._owner.releases[it].settings) for it in generations}
        every = min(limits.look_every for limits in self._limits.values())
        self._timer = self._reactor.call_later(every, self._look_and_wait)
        self._look()

    def _look(self) -> None:
        now = self._reactor.now()
        passed, self._looked = now - self._looked, now
        workers = self._owner.workers
        self._watched = {number: watched for number, watched in self._watched.items() if number in workers}
        for worker in list(workers.values()):
            if not worker.is_admitted:
                continue  # its boot, or the wait for its turn, is bounded otherwise
            row = worker.row
            sample = Sample(row[Cell.HEARTBEAT_NS] / 1e9, row[Cell.STUCK_SINCE_NS] / 1e9)
            watched = self._watched.get(worker.number) or Watched()
            if is_calm(watched, sample, self._limits[worker.generation], now, passed):
                continue
            limits = self._limits[worker.generation]
            self._watched[worker.number], verdicts = step(watched, sample, limits, now, passed)
            for verdict in verdicts:
                self._take(worker, verdict)
        for number, sentence in list(self._sentences.items()):
            if number not in workers:
                del self._sentences[number]
            elif sentence is not None and sentence.ends <= now and self._is_past(workers[number]):
                self._execute(workers[number], sentence)

    def _take(self, worker: Worker, verdict: Verdict) -> None:
        if isinstance(verdict, Began):
            self._owner.accounts.stalls += 1
            worker.ask_stacks(lambda stacks: self._tell(worker, verdict, stacks))
        elif isinstance(verdict, Ended):
            self._news.over(worker, verdict)
        elif worker.number not in self._sentences:
            self._judge(worker, verdict)

    def _tell(self, worker: Worker, began: Began, stacks: Stacks) -> None:
        self._news.blocked(worker, max(began.seconds, worker.blocked), stacks, self._home(worker))

    def _judge(self, worker: Worker, late: TimedOut) -> None:
        settings = self._owner.releases[worker.generation].settings
        if late.is_loop:
            why = f"its event loop was blocked for {late.seconds:.1f} s"
        else:
            why = f"all its {settings.threads} threads were stuck for {late.seconds:.1f} s"
        why += f", past stall_timeout, {settings.stall_timeout:g} s"
        if self._may_kill(worker, why):
            self._sentences[worker.number] = None
            worker.ask_stacks(lambda stacks: self._sentence(worker, why, stacks))

    def _sentence(self, worker: Worker, why: str, stacks: Stacks) -> None:
        """Its last stacks are here: tell them, and have it replaced."""
        if worker.number not in self._owner.workers:
            return
        self._news.doomed(worker, why, stacks, self._home(worker))
        slot = self._owner.engine.fleet.slots.get(worker.slot)
        holds = slot is not None and slot.is_settled and slot.holder is not None and slot.holder.id == worker.number
        has_room = holds and not self._owner.is_stopping and not self._owner.engine.roll.is_under_way
        wait = min(HEIR_TIME, self._owner.releases[worker.generation].settings.boot_timeout) if has_room else 0.0
        sentence = self._sentences[worker.number] = _Sentence(why, self._reactor.now() + wait)
        if has_room:
            self._owner.recycle(worker.slot, why, insist=True)
        else:
            self._execute(worker, sentence)

    def _execute(self, worker: Worker, sentence: _Sentence) -> None:
        self._sentences[worker.number] = None
        worker.abort(sentence.why)

    def _is_past(self, worker: Worker) -> bool:
        """It is past the time that it may be blocked, now."""
        limits = self._limits[worker.generation]
        stuck_since = worker.row[Cell.STUCK_SINCE_NS] / 1e9
        stuck = self._reactor.now() - stuck_since if stuck_since else 0.0
        return max(worker.blocked, stuck) >= limits.timeout

    def _state(self, worker: Worker) -> str:
        if worker.is_leaving:
            return "draining"
        if not worker.is_admitted:
            return "starting"
        return "stalled" if self.is_stalled(worker) else "serving"

    def _home(self, worker: Worker) -> str:
        """Where the app's own code is."""
        return self._owner.releases[worker.generation].place.home


def _limits(settings: AppSettings) -> Limits:
    return Limits(settings.stall_warn or math.inf, settings.stall_timeout or math.inf)
