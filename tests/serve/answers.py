"""A client's reading of what the server writes, by h11, which shares no code with it.

Invariant: bytes that are not a sequence of whole answers, in the framing that each one's request allows, raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import h11


class Answered(NamedTuple):
    """One answer. `interim` are the statuses before its own, `whole` is False when the connection was cut under it."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    interim: tuple[int, ...] = ()
    whole: bool = True


def read_answers(data: bytes, methods: Sequence[str], *, ended: bool) -> tuple[list[Answered], bytes]:
    """The answers to requests of these `methods`, and further ones as if to GET; `ended` is whether the server has
    closed its half. Behind a 101 comes what is no HTTP, and is returned. Raises `h11.RemoteProtocolError`."""
    answers: list[Answered] = []
    while data:
        method = methods[len(answers)] if len(answers) < len(methods) else "GET"
        answer, data = _read_one(data, method, ended)
        answers.append(answer)
        if answer.status == 101:
            break
    return answers, b"" if answers and answers[-1].status != 101 else data


def _read_one(data: bytes, method: str, ended: bool) -> tuple[Answered, bytes]:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    upgrade = [("Upgrade", "websocket"), ("Connection", "upgrade")]
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a"), *upgrade]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    interim: list[int] = []
    head: h11.Response | None = None
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.InformationalResponse):
            if event.status_code == 101:
                return Answered(101, tuple(event.headers), b"", tuple(interim)), connection.trailing_data[0]
            interim.append(event.status_code)
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            rest = connection.trailing_data[0]
            return Answered(head.status_code, tuple(head.headers), body, tuple(interim)), rest
        elif event is h11.NEED_DATA and ended and connection.their_state is h11.SEND_BODY and _until_close(head):
            connection.receive_data(b"")
            ended = False
        else:
            status = head.status_code if head is not None else 0
            return Answered(status, tuple(head.headers) if head else (), body, tuple(interim), whole=False), b""


def _until_close(head: h11.Response | None) -> bool:
    assert head is not None
    return not {b"content-length", b"transfer-encoding"} & {name for name, _ in head.headers}
