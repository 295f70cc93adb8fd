"""The watch's restraint: who wants a worker of an app killed for how it fares has to ask here first.

Invariant: no worker is killed by the watch without a grant; what is refused is told once for each worker, until the
app has recovered.
"""

from __future__ import annotations

from supervisor.kernel.reactor import Reactor
from supervisor.master.news import News
from supervisor.master.worker import Worker
from supervisor.watch.budget import SPAN, Budget, spend, step


class Restraint:
    """One app's budget of kills. The limit comes with each question, because a roll may change it."""

    def __init__(self, reactor: Reactor, news: News) -> None:
        self._reactor = reactor
        self._news = news
        self.budget = Budget()
        self._spared: set[int] = set()  # numbers of the workers of which was told that they are left alone
        self.why = ""  # a sentence while the app is degraded

    @property
    def is_degraded(self) -> bool:
        """A kill had to be refused, and the app has not recovered since."""
        return self.budget.is_degraded

    def may_kill(self, worker: Worker, why: str, limit: int) -> bool:
        """Whether it may be killed for `why`; a kill that is granted counts as done."""
        self.budget, granted = spend(self.budget, limit, self._reactor.now())
        if granted:
            return True
        killed = f"{len(self.budget.spent)} worker{'s' * (len(self.budget.spent) != 1)}"
        self.why = self.why or (
            f"{killed} killed within {SPAN:g} s, and more would have to be: warnings only, so that an overload does "
            f"not become an outage (max_restarts = {limit})"
        )
        if worker.number not in self._spared:
            self._spared.add(worker.number)
            self._news.spared(worker, why, limit)
        return False

    def look(self, limit: int) -> None:
        """Time has passed."""
        self.budget = step(self.budget, limit, self._reactor.now())
        if not self.budget.is_degraded:
            self.why = ""
            self._spared.clear()
