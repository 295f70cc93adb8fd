"""One connection in orders of events that real sockets rarely give, most of them found by `scripts/fuzz`."""

from __future__ import annotations

from typing import Any

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
