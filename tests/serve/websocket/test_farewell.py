"""Who is sent away when, by a loop whose time passes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from supervisor.serve.websocket.farewell import PACE, Farewell


class Loop:
    """Runs timers in order; `now` jumps from one to the next. At most one may be set, as the module promises."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timer: tuple[float, Callable[[], None]] | None = None

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Loop:
        assert self.timer is None
        self.timer = (self.now + delay, callback)
        return self

    def cancel(self) -> None:
        self.timer = None

    def run(self) -> None:
        while self.timer is not None:
            (self.now, callback), self.timer = self.timer, None
            callback()


class Client:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.at: list[float] = []

    def leave(self) -> None:
        self.at.append(self._loop.now - 1000.0)


def sent_away(count: int, longest: float) -> list[Client]:
    loop: Any = Loop()
    clients = [Client(loop) for _ in range(count)]
    Farewell(loop).begin(clients, longest)
    loop.run()
    assert all(len(client.at) == 1 for client in clients)
    return clients


@pytest.mark.parametrize(("count", "longest", "takes"), [(10, 15.0, 10 * PACE), (5000, 15.0, 15.0), (100, 0.0, 0.0)])
def test_all_are_told_once_within_the_time(count: int, longest: float, takes: float) -> None:
    at = sorted(client.at[0] for client in sent_away(count, longest))
    assert at[-1] <= takes + 1e-9
    assert at[0] <= 2 * takes / count + 1e-9
    if takes:  # spread over the time, not crowded anywhere
        for tenth in range(1, 10):
            share = sum(moment <= takes * tenth / 10 for moment in at) / count
            assert abs(share - tenth / 10) < (0.5 if count < 100 else 0.15)


def test_the_order_is_not_that_of_their_coming() -> None:
    clients = sent_away(1000, 10.0)
    moments = [client.at[0] for client in clients]
    assert moments != sorted(moments)


def test_a_late_comer_is_told_too() -> None:
    loop: Any = Loop()
    farewell = Farewell(loop)
    farewell.begin([], 15.0)
    assert loop.timer is None
    client = Client(loop)
    farewell.add(client)
    assert client.at == []
    loop.run()
    assert 0.0 <= client.at[0] <= 2 * PACE


def test_nobody_is_told_after_the_stop() -> None:
    loop: Any = Loop()
    farewell = Farewell(loop)
    client = Client(loop)
    farewell.begin([client], 15.0)
    farewell.stop()
    loop.run()
    assert client.at == []


def test_it_is_at_home_in_a_real_loop() -> None:
    async def run() -> None:
        left = asyncio.Event()

        class Leaver:
            def leave(self) -> None:
                left.set()

        Farewell(asyncio.get_running_loop()).begin([Leaver()], 1.0)
        await asyncio.wait_for(left.wait(), 5)

    asyncio.run(run())
