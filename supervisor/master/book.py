"""The book of an app's rolls: what became of each, why, how long it took, and what became of the requests meanwhile.

Invariant: every request that workers took between a roll's first and last moment is in its ledger once: completed, cut,
reset, or still under way. Those under way in leaving workers at the verdict are followed until the last of them has
gone; those in workers that serve on belong to what comes after.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec.structs import asdict, replace

from supervisor.master import record
from supervisor.master.accounts import Accounts, Counts
from supervisor.master.worker import Worker
from supervisor.messages.status import Ledger, RollStatus, RollTotals, Verdict
from supervisor.reload import records as rolls

REMEMBERED = 20  # rolls


class Account:
    """One roll's ledger, kept from its start."""

    def __init__(self, accounts: Accounts, began: Counts) -> None:
        self._accounts = accounts
        self._began = began
        self._closed: Counts | None = None
        self._leaving: dict[int, tuple[Worker, Counts]] = {}  # those whose requests still count, as they were then

    def close(self, living: Collection[Worker]) -> None:
        """The verdict is given: from now on only the requests of those who leave are followed."""
        self._closed = self._accounts.all(living) - self._began
        self._leaving = {each.number: (each, Counts.of(each.row)) for each in living if each.is_leaving}

    def state(self, status: RollStatus) -> record.Account:
        """All that a master which goes on with it has to know."""
        return record.Account(
            status=status,
            began=asdict(self._began),
            closed=asdict(self._closed) if self._closed is not None else None,
            leaving={number: asdict(then) for number, (_worker, then) in self._leaving.items()},
        )

    def resume(self, kept: record.Account, workers: Mapping[int, Worker]) -> None:
        """Go on with an earlier master's."""
        self._closed = Counts.resumed(kept.closed) if kept.closed is not None else None
        self._leaving = {
            number: (workers[number], Counts.resumed(then))
            for number, then in kept.leaving.items()
            if number in workers
        }

    def ended(self, worker: Worker) -> None:
        """A worker has ended; its row still holds."""
        if self._closed is not None and (followed := self._leaving.pop(worker.number, None)):
            self._closed += Counts.of_dead(worker) - followed[1]

    def ledger(self, living: Collection[Worker]) -> Ledger:
        """What is known now."""
        if self._closed is None:
            counts, under_way = self._accounts.all(living) - self._began, sum(each.inflight for each in living)
        else:
            leaving = self._leaving.values()
            counts = sum((Counts.of(each.row) - then for each, then in leaving), self._closed)
            under_way = sum(each.inflight for each, _then in leaving)
        return Ledger(
            accepted=counts.completed + counts.cut + counts.reset + under_way,
            completed=counts.completed,
            cut=counts.cut,
            reset=counts.reset,
            under_way=under_way,
            handed_over=counts.handed_over,
            drained=counts.drained,
            connections_cut=counts.connections_cut,
        )


class Book:
    """The last rolls of one app, oldest first."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._rolls: deque[tuple[RollStatus, Account]] = deque(maxlen=REMEMBERED)
        self._began = 0.0
        self._verdicts = {"committed": 0, "rolled_back": 0}
        self.number = 0  # of the last roll, counted from 1

    def state(self) -> record.Book:
        """All that a master which goes on with it has to know."""
        return record.Book(
            rolls=tuple(account.state(status) for status, account in self._rolls),
            began=self._began,
            verdicts=dict(self._verdicts),
            number=self.number,
        )

    def resume(self, kept: record.Book, workers: Mapping[int, Worker]) -> None:
        """Go on with an earlier master's."""
        for entry in kept.rolls:
            account = Account(self._accounts, Counts.resumed(entry.began))
            account.resume(entry, workers)
            self._rolls.append((entry.status, account))
        self._began, self.number = kept.began, kept.number
        self._verdicts |= kept.verdicts

    def begin(self, started: rolls.Started, living: Collection[Worker]) -> None:
        """A roll has begun."""
        self.number += 1
        self._began = time.monotonic()
        status = RollStatus(
            number=self.number,
            at=round(time.time(), 3),
            from_=started.base,
            to=started.target,
            verdict="running",
            reason="",
            seconds=0.0,
            ledger=Ledger(),
        )
        self._rolls.append((status, Account(self._accounts, self._accounts.all(living))))

    def end(self, ended: rolls.Committed | rolls.RolledBack | rolls.Superseded, living: Collection[Worker]) -> None:
        """The last roll has its verdict."""
        status, account = self._rolls[-1]
        account.close(living)
        reason = f"superseded by generation {ended.by}" if isinstance(ended, rolls.Superseded) else ""
        reason = ended.reason if isinstance(ended, rolls.RolledBack) else reason
        verdict: Verdict = "committed" if isinstance(ended, rolls.Committed) else "rolled_back"
        self._verdicts[verdict] += 1
        decided = replace(status, verdict=verdict, reason=reason, seconds=round(ended.seconds, 3))
        self._rolls[-1] = decided, account

    def ended(self, worker: Worker) -> None:
        """A worker has ended; its row still holds."""
        for _status, account in self._rolls:
            account.ended(worker)

    def totals(self, living: Iterable[Worker]) -> RollTotals:
        """Of all rolls there ever were."""
        counts = self._accounts.all(living)
        return RollTotals(
            committed=self._verdicts["committed"],
            rolled_back=self._verdicts["rolled_back"],
            handed_over=counts.handed_over,
            drained=counts.drained,
            connections_cut=counts.connections_cut,
        )

    def last(self, living: Collection[Worker]) -> RollStatus | None:
        """The last roll as it stands now, or None when there was none."""
        return self._now(*self._rolls[-1], living) if self._rolls else None

    def all(self, living: Collection[Worker]) -> Sequence[RollStatus]:
        """The last twenty."""
        return [self._now(status, account, living) for status, account in self._rolls]

    def _now(self, status: RollStatus, account: Account, living: Collection[Worker]) -> RollStatus:
        is_running = status.verdict == "running"
        seconds = round(time.monotonic() - self._began, 3) if is_running else status.seconds
        return replace(status, seconds=seconds, ledger=account.ledger(living))
