"""ASGI requests that wait for their turn, where a worker has more of them than it can begin at once.

Invariants:
- Who stands here is with nobody: no app code has seen the request, and it is not in flight. It leaves to the app, or
  to another worker, or is turned away, or its client goes first.
- The oldest go first, unless the line has stood for too long: then the newest, and of those only who still seems to be
  there. Exempt paths go before all.
- There are no more in line than there are connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from supervisor.serve.patience import Patience

if TYPE_CHECKING:
    from supervisor.serve.http1.ending import Ending


class Waiting(Protocol):
    """A request, as far as it waits."""

    since: float

    @property
    def gone(self) -> bool: ...

    @property
    def is_ending(self) -> bool:
        """Its client sends no more: it has left, or is one of the few who end that way."""

    @property
    def path(self) -> bytes: ...

    def queue(self) -> None: ...

    def unqueue(self) -> None: ...

    def turn_away(self) -> None: ...

    def pass_on(self, give: Callable[[Ending, bytes], bool]) -> bool: ...


T = TypeVar("T", bound=Waiting)


class Line(Generic[T]):
    """`add` those who have come, then `take` those whose turn it is."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._line: deque[T] = deque()
        self._first: deque[T] = deque()  # exempt

    def __len__(self) -> int:
        return len(self._line) + len(self._first)

    def add(self, comers: Iterable[T]) -> None:
        """At the end of the line. What they have waited in the kernel counts, too."""
        exempt = self._patience.exempt
        for comer in comers:
            comer.queue()
            (self._first if comer.path in exempt else self._line).append(comer)

    def take(self, number: int) -> list[T]:
        """The next `number` at most, in the order in which they are to begin, and whoever is exempt; of the others, who
        has waited for too long is turned away."""
        taken = self._leave(self._first, len(self._first), newest=False)
        self._turn_away()
        taken += self._leave(self._line, number - len(taken), newest=self._patience.is_overloaded)
        if not self._line:
            self._patience.relax(monotonic())
        return taken

    def part(self, give: Callable[[Ending, bytes], bool]) -> None:
        """Have other workers take those in line, the oldest first, as long as `give` gives them to any."""
        for line in (self._first, self._line):
            kept = [one for one in line if one.gone or not one.pass_on(give)]
            line.clear()
            line.extend(kept)

    def clear(self) -> list[T]:
        """All that are left, whose turn will not come."""
        return self._leave(self._first, len(self._first), newest=False) + self._leave(
            self._line, len(self._line), newest=False
        )

    def _turn_away(self) -> None:
        now = monotonic()
        line, patience = self._line, self._patience
        while line:
            oldest = line[0]
            if oldest.gone:
                line.popleft()
            elif patience.is_over(oldest.since, now):
                line.popleft()
                oldest.turn_away()
                patience.count()
            else:
                break

    def _leave(self, line: deque[T], number: int, *, newest: bool) -> list[T]:
        leaving: list[T] = []
        while line and len(leaving) < number:
            one = line.pop() if newest else line.popleft()
            if newest and one.is_ending and not one.gone:
                one.turn_away()
                self._patience.count()
            elif not one.gone:
                one.unqueue()
                leaving.append(one)
        return leaving
