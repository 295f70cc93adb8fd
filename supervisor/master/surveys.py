"""Workers asked what they hold (`holdfastctl heap`), and their answers on the way to who wants to know.

Invariant: a worker is surveyed for one at a time, few of an app at once, so that the others serve; and everybody who
asked is answered once, also when the worker ends or says nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from supervisor.errors import RefusedError
from supervisor.kernel.reactor import Reactor, Timer
from supervisor.master.worker import Worker
from supervisor.messages.heap import Heap

MOST_AT_ONCE = 4
PATIENCE = 30.0  # seconds beyond those in which allocations are traced

OnAnswer = Callable[[Heap | RefusedError], None]


class Surveys:
    """Of one app's workers."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._asked: dict[int, tuple[OnAnswer, Timer]] = {}  # by worker

    def ask(self, worker: Worker, seconds: float, frames: int, on_answer: OnAnswer) -> None:
        """Have the worker looked at. Raises `RefusedError` when somebody else is having that done."""
        if worker.number in self._asked:
            raise RefusedError(f"worker {worker.slot} is being looked at already; ask again in a moment")
        if len(self._asked) >= MOST_AT_ONCE:
            raise RefusedError(f"{MOST_AT_ONCE} workers of the app are being looked at already; ask again in a moment")
        late = RefusedError(f"no answer within {PATIENCE:g} s; is its event loop blocked?")
        timer = self._reactor.call_later(seconds + PATIENCE, lambda: self._answer(worker, late))
        self._asked[worker.number] = on_answer, timer
        worker.survey(seconds, frames)

    def answered(self, worker: Worker, heap: Heap) -> None:
        """It has told."""
        self._answer(worker, heap)

    def ended(self, worker: Worker) -> None:
        """It will not tell any more."""
        self._answer(worker, RefusedError("the worker has ended meanwhile"))

    def _answer(self, worker: Worker, answer: Heap | RefusedError) -> None:
        asked = self._asked.pop(worker.number, None)
        if asked is not None:
            on_answer, timer = asked
            timer.cancel()
            on_answer(answer)
