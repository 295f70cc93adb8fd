"""An open WebSocket in orders of events that real sockets rarely give, most of them found by `scripts/fuzz`."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from supervisor.serve.limits import TICK, Limits
from tests.serve.stepped import Wired
from tests.serve.websocket.client import HANDSHAKE, TEXT, frame

ENDLESS = 1 << 40
SOON = Limits(read_ahead=1000, write_idle=1, closing=1)


class Flood:
    """Sends without end. `ended` once it was told that the client has gone."""

    def __init__(self) -> None:
        self.ended = False

    async def app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        with contextlib.suppress(OSError):
            while True:
                await send({"type": "websocket.send", "bytes": bytes(10_000)})
        self.ended = True


@pytest.mark.parametrize("interval", [0.0, 1.0], ids=["without pings", "with pings"])
def test_a_client_that_takes_nothing_is_given_up_though_we_read_nothing_of_it_either(interval: float) -> None:
    flood = Flood()
    with Wired(flood.app, limits=SOON, ws_ping_interval=interval, ws_ping_timeout=1.0) as wired:
        wired.start()
        client = wired.connect(room=1000)
        client.send(HANDSHAKE + frame(TEXT, b"hello") * 100)
        wired.settle()
        for _ in range(20):
            wired.advance(TICK)
        assert client.closed
        assert flood.ended
        wired.assert_idle()


@pytest.mark.parametrize("interval", [0.0, 1.0], ids=["without pings", "with pings"])
def test_a_client_that_takes_slowly_is_not(interval: float) -> None:
    flood = Flood()
    with Wired(flood.app, limits=SOON, ws_ping_interval=interval, ws_ping_timeout=1.0) as wired:
        wired.start()
        client = wired.connect(room=1000)
        client.send(HANDSHAKE)
        wired.settle()
        for _ in range(40):
            client.take(10)
            wired.advance(TICK)
        assert not client.closed
        client.reset()
        wired.settle()
        wired.assert_idle()
