"""An open WebSocket in orders of events that real sockets rarely give, most of them found by `scripts/fuzz`."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from supervisor.serve.limits import TICK, Limits
from tests.serve.stepped import Wired
from tests.serve.websocket.client import HANDSHAKE, TEXT, close, frame

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


class Herald:
    """Sends one large message, and closes if it is to."""

    def __init__(self, *, closes: bool) -> None:
        self.closes = closes
        self.told: dict[str, Any] = {}

    async def app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": bytes(100_000)})
        if self.closes:
            await send({"type": "websocket.close"})
        self.told = await receive()


@pytest.mark.parametrize("ends", ["the app closes", "a drain", "the client closes"])
def test_a_message_under_way_is_sent_to_its_end_as_long_as_the_client_takes_of_it(ends: str) -> None:
    herald = Herald(closes=ends == "the app closes")
    with Wired(herald.app, limits=SOON) as wired:
        wired.start()
        client = wired.connect(room=1000)
        client.send(HANDSHAKE)
        wired.settle()
        if ends == "a drain":
            wired.service.drain(0.1)
        elif ends == "the client closes":
            client.send(close())
        for _ in range(400):
            client.take(1000)
            wired.advance(TICK)
        assert client.received.count(bytes(100_000)) == 1, "the message is whole"
        assert b"\x88" in client.received[-40:], "and the end is told behind it"
        assert herald.told["type"] == "websocket.disconnect"
        client.reset()
        wired.advance(1)
        wired.assert_idle()


def test_a_message_under_way_at_the_end_is_given_up_when_the_client_takes_nothing_of_it() -> None:
    herald = Herald(closes=False)
    with Wired(herald.app, limits=SOON) as wired:
        wired.start()
        client = wired.connect(room=1000)
        client.send(HANDSHAKE)
        wired.settle()
        wired.service.drain(0.1)
        for _ in range(20):
            wired.advance(TICK)
        assert client.closed
        wired.assert_idle()
