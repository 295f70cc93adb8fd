"""The handshake's rules, without a connection, and over one where the bytes matter."""

from __future__ import annotations

from typing import Any

import pytest
import zttp

from supervisor.serve.http1.answer import Answer, AnswerError, Stamps
from supervisor.serve.http1.head import Refusal
from supervisor.serve.websocket.handshake import Handshake, agree, asks_for_websocket, judge_handshake, refuse

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3, and its answer
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
GOOD = {
    "host": b"x",
    "upgrade": b"websocket",
    "connection": b"Upgrade",
    "sec-websocket-key": KEY,
    "sec-websocket-version": b"13",
}


def parsed(line: bytes = b"GET / HTTP/1.1", /, *more: bytes, **changes: bytes | None) -> zttp.Request:
    """The good handshake with some fields changed (None: left out) and some lines more."""
    fields = GOOD | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [line, *(b"%b: %b" % (name.encode(), value) for name, value in fields.items() if value is not None), *more]
    request = zttp.Connection(zttp.SERVER).receive_event(b"\r\n".join(lines) + b"\r\n\r\n")
    assert isinstance(request, zttp.Request)
    return request


def judged(*arguments: bytes, **changes: bytes | None) -> Handshake | Refusal:
    return judge_handshake(parsed(*arguments, **changes))


def agreed(
    handshake: Handshake, subprotocol: str | None = None, headers: Any = (), extensions: str | None = None
) -> bytes:
    return agree(handshake, subprotocol, headers, extensions, Stamps())


def test_the_handshake_of_the_rfc_is_answered_as_there() -> None:
    handshake = judged()
    assert handshake == Handshake(KEY, [], [])
    head, _, rest = agreed(handshake).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
    assert {b"upgrade: websocket", b"connection: upgrade", b"sec-websocket-accept: " + ACCEPT} <= set(lines)
    assert not any(line.startswith((b"content-length", b"transfer-encoding", b"sec-websocket-p")) for line in lines)
    assert rest == b""


@pytest.mark.parametrize(
    ("line", "changes", "asks"),
    [
        (b"GET / HTTP/1.1", {}, True),
        (b"GET / HTTP/1.1", {"upgrade": b"WebSocket"}, True),
        (b"GET / HTTP/1.1", {"upgrade": b"h2c, websocket"}, True),
        (b"POST / HTTP/1.1", {}, True),
        (b"GET / HTTP/1.0", {}, False),
        (b"GET / HTTP/1.2", {}, True),
        (b"GET / HTTP/1.1", {"upgrade": b"h2c"}, False),
        (b"GET / HTTP/1.1", {"upgrade": b"websockets"}, False),
        (b"GET / HTTP/1.1", {"upgrade": None}, False),
    ],
)
def test_only_websocket_on_http_1_1_is_an_upgrade(line: bytes, changes: dict[str, bytes | None], asks: bool) -> None:
    assert asks_for_websocket(parsed(line, **changes)) is asks


@pytest.mark.parametrize(
    ("line", "changes", "status"),
    [
        (b"POST / HTTP/1.1", {}, 400),
        (b"GET / HTTP/1.1", {"content_length": b"3"}, 400),
        (b"GET / HTTP/1.1", {"transfer_encoding": b"chunked"}, 400),
        (b"GET / HTTP/1.1", {"sec_websocket_version": None}, 426),
        (b"GET / HTTP/1.1", {"sec_websocket_version": b"8"}, 426),
        (b"GET / HTTP/1.1", {"sec_websocket_version": b"13, 8"}, 426),
        (b"GET / HTTP/1.1", {"sec_websocket_key": None}, 400),
        (b"GET / HTTP/1.1", {"sec_websocket_key": b""}, 400),
        (b"GET / HTTP/1.1", {"sec_websocket_key": KEY[:-4]}, 400),
        (b"GET / HTTP/1.1", {"sec_websocket_key": b"A" * 24}, 400),
        (b"GET / HTTP/1.1", {"sec_websocket_key": b"dGhlIHNhbXBsZSBub25jZR=="}, 400),  # bits beyond the 16 bytes
        (b"GET / HTTP/1.1", {"sec_websocket_protocol": b"a b"}, 400),
        (b"GET / HTTP/1.1", {"sec_websocket_protocol": b"a, a"}, 400),
    ],
)
def test_a_bad_handshake_is_refused(line: bytes, changes: dict[str, bytes | None], status: int) -> None:
    refusal = judged(line, **changes)
    assert isinstance(refusal, Refusal)
    assert refusal.status == status
    ours = Answer("GET", False, False)
    answer = refuse(refusal, ours, Stamps())
    assert (ours.status, ours.sent) == (status, len(answer.partition(b"\r\n\r\n")[2]))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nconnection: close" in answer
    assert (b"\r\nsec-websocket-version: 13\r\n" in answer) == (status == 426)
    assert refusal.why.encode() in answer


def test_two_keys_are_none() -> None:
    assert judged(b"GET / HTTP/1.1", b"Sec-WebSocket-Key: " + KEY) == Refusal(
        400, "Sec-WebSocket-Key is not the base64 of 16 bytes"
    )


def test_subprotocols_and_extensions_are_gathered_over_all_their_lines() -> None:
    handshake = judged(
        b"GET / HTTP/1.1",
        b"Sec-WebSocket-Protocol: chat.v1 ,, chat.v2",
        b"Sec-WebSocket-Protocol: raw",
        b"Sec-WebSocket-Extensions: a; x=1, b",
        b"Sec-WebSocket-Extensions: c",
    )
    assert handshake == Handshake(KEY, ["chat.v1", "chat.v2", "raw"], ["a; x=1, b", "c"])


def test_what_was_agreed_on_is_in_the_answer() -> None:
    handshake = Handshake(KEY, ["a", "b"], [])
    answer = agreed(
        handshake, "b", [(b"X-Own", b"1"), (b"server", b"mine"), (b"content-length", b"5")], "permessage-deflate"
    )
    head = answer.split(b"\r\n")
    for line in (b"sec-websocket-protocol: b", b"sec-websocket-extensions: permessage-deflate", b"X-Own: 1"):
        assert line in head
    assert [line for line in head if line.startswith(b"server:")] == [b"server: mine"]
    assert not any(line.startswith(b"content-length") for line in head)


@pytest.mark.parametrize(
    ("subprotocol", "headers"),
    [
        ("c", []),
        ("", []),
        ("a\r\nx: y", []),
        (None, [(b"x", b"1\r\ny: 2")]),
        (None, [(b"x", b"1\n")]),
        (None, [(b"x", b"\0")]),
        (None, [(b"x y", b"1")]),
        (None, [(b"Sec-WebSocket-Accept", b"1")]),
        (None, [(b"Sec-WebSocket-Protocol", b"a")]),
        (None, [(b"Sec-WebSocket-Extensions", b"a")]),
        (None, [(b"upgrade", b"h2c")]),
    ],
)
def test_what_an_app_must_not_put_into_the_answer(subprotocol: str | None, headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(AnswerError):
        agreed(Handshake(KEY, ["a", "b"], []), subprotocol, headers)
