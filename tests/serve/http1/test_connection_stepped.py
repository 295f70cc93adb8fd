"""One connection in orders of events that real sockets rarely give, most of them found by `scripts/fuzz`."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.serve.limits import Limits
from tests.serve.answers import read_answers
from tests.serve.stepped import Wired

CHUNKED = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = 1 << 40


async def early(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers before it reads."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(1000)})


def test_a_body_that_goes_wrong_behind_an_answer_that_the_client_has_yet_to_take() -> None:
    with Wired(early) as wired:
        client = wired.connect(room=100)
        client.send(CHUNKED)
        wired.settle()
        client.send(b"no size\r\n")
        wired.settle()
        client.take(ENDLESS)
        wired.settle()
        (answer,), _ = read_answers(bytes(client.received), ["POST"], ended=client.ended)
        assert (answer.status, len(answer.body)) == (200, 1000)
        assert client.ended
        client.end()
        wired.settle()
        wired.assert_idle()


async def waits(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", CHUNKED + b"0\r\n\r\n"])
def test_what_comes_behind_a_request_in_one_read_is_enough_when_it_is_more_than_is_read_ahead(head: bytes) -> None:
    with Wired(waits, limits=Limits(read_ahead=100)) as wired:
        for more, waiting in ((100, 0), (101, 1)):
            client = wired.connect()
            client.send(head + b"x" * more)
            wired.settle()
            client.send(b"y")
            wired.settle()
            assert len(client.unread) == waiting
            client.reset()
            wired.settle()
        wired.assert_idle()
