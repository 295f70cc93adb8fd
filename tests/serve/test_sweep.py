"""Many deadlines that pass at once: all are kept, and nobody's turn is taken."""

from __future__ import annotations

import asyncio

import uvloop

from supervisor.serve.limits import NEVER
from supervisor.serve.sweep import AT_ONCE, Sweep


class Idler:
    """Notes when it was told that its deadline has passed."""

    def __init__(self, log: list[object], expires: int) -> None:
        self.expires = expires
        self._log = log

    def expire(self) -> None:
        self._log.append(self)
        self.expires = NEVER


def test_only_the_overdue_are_ended() -> None:
    async def main() -> None:
        log: list[object] = []
        idlers = [Idler(log, expires) for expires in (1, 5, 6, NEVER)]
        sweep = Sweep(asyncio.get_running_loop(), idlers)
        sweep.run(5)
        assert log == idlers[:2]
        sweep.run(5)
        assert len(log) == 2

    uvloop.run(main())


def test_thousands_are_ended_in_turns_with_others_in_between() -> None:
    async def main() -> None:
        log: list[object] = []
        idlers = [Idler(log, 3) for _ in range(10 * AT_ONCE + 1)]
        others: list[int] = []
        Sweep(asyncio.get_running_loop(), set(idlers)).run(3)
        while len(log) < len(idlers):
            others.append(len(log))
            await asyncio.sleep(0)
        assert set(log) == set(idlers)
        assert len(log) == len(idlers)
        assert others == [AT_ONCE * turn for turn in range(1, 11)]

    uvloop.run(main())


def test_who_asks_again_while_others_are_ended_is_spared() -> None:
    async def main() -> None:
        log: list[object] = []
        idlers = [Idler(log, 3) for _ in range(2 * AT_ONCE)]
        Sweep(asyncio.get_running_loop(), idlers).run(3)
        idlers[-1].expires = 100
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert log == idlers[:-1]

    uvloop.run(main())
