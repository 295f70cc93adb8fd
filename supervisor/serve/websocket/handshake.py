"""Judges a request to speak WebSocket, and answers it. Pure (RFC 6455 section 4.2).

Invariant: a 101 goes only to a client that has proved to speak version 13, and selects nothing that it did not offer.
Whatever is not a WebSocket handshake at all (another protocol in Upgrade, HTTP/1.0, no `Connection: upgrade`) is an
ordinary request, whose Upgrade is ignored (RFC 9110 section 7.8).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from websockets.utils import accept_key
from zttp import Request

from supervisor.serve.http1.answer import Answer, AnswerError, Headers, Stamps, render
from supervisor.serve.http1.head import Refusal, fields

_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")  # base64 of 16 bytes
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = frozenset(b"sec-websocket-" + name for name in (b"accept", b"extensions", b"key", b"protocol", b"version")) | {
    b"upgrade"
}
"""Fields of the answer that say what was agreed on. They are ours to write."""


class Handshake(NamedTuple):
    """What a client has asked for. `extensions` are its Sec-WebSocket-Extensions fields as they came."""

    key: bytes
    subprotocols: list[str]
    extensions: list[str]


def asks_for_websocket(request: Request) -> bool:
    """Whether a request with `Connection: upgrade` names WebSocket among the protocols it would change to."""
    return request.http_version != b"1.0" and b"websocket" in _listed(request, b"upgrade", lower=True)


def judge_handshake(request: Request) -> Handshake | Refusal:
    """A handshake to offer to the app, or why the client gets none."""
    headers = fields(request)
    if request.method != b"GET":
        return Refusal(400, "a WebSocket handshake is a GET")
    if not request.end_stream:
        return Refusal(400, "a WebSocket handshake has no body")
    if headers.getall(b"sec-websocket-version") != [b"13"]:
        return Refusal(426, "the one version of WebSocket spoken here is 13")
    keys = headers.getall(b"sec-websocket-key")
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        return Refusal(400, "Sec-WebSocket-Key is not the base64 of 16 bytes")
    subprotocols = [name.decode("latin-1") for name in _listed(request, b"sec-websocket-protocol")]
    if not all(map(_TOKEN.fullmatch, subprotocols)) or len(set(subprotocols)) < len(subprotocols):
        return Refusal(400, "Sec-WebSocket-Protocol is not a list of different tokens")
    extensions = [value.decode("latin-1") for value in headers.getall(b"sec-websocket-extensions")]
    return Handshake(keys[0], subprotocols, extensions)


def refuse(refusal: Refusal, answer: Answer, stamps: Stamps) -> bytes:
    """Make `answer` the one to a handshake that no app should see. A 426 says what to come back with (RFC 6455 section
    4.4)."""
    if refusal.status != 426:
        return answer.own(refusal.status, stamps, text=refusal.why)
    body = f"426 Upgrade Required: {refusal.why}\n".encode()
    answer.status, answer.sent = 426, len(body)
    return (
        b"HTTP/1.1 426 Upgrade Required\r\ncontent-type: text/plain; charset=utf-8\r\n%b"
        b"sec-websocket-version: 13\r\nupgrade: websocket\r\ncontent-length: %d\r\nconnection: close, upgrade\r\n\r\n%b"
    ) % (stamps.both, len(body), body)


def agree(
    handshake: Handshake, subprotocol: str | None, headers: Headers, extensions: str | None, stamps: Stamps
) -> bytes:
    """The 101, with what was agreed on and the app's own `headers`. Raises `AnswerError`."""
    headers = tuple(headers)
    if taken := [name for name, _ in headers if name.lower() in _OURS]:
        raise AnswerError(f"the header {taken[0]!r} of websocket.accept is the server's to set")
    # 204 has no body either: nothing about framing is left in the lines. Their first one is the status.
    lines = render(204, headers)
    agreed = b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: %b\r\n" % _digest(handshake.key)
    if subprotocol is not None:
        if subprotocol not in handshake.subprotocols:
            raise AnswerError(f"the app accepts the subprotocol {subprotocol!r}, which the client has not offered")
        agreed += b"sec-websocket-protocol: %b\r\n" % subprotocol.encode("ascii")
    if extensions is not None:
        agreed += b"sec-websocket-extensions: %b\r\n" % extensions.encode("latin-1")
    _, _, others = lines.text.partition(b"\r\n")
    return b"".join((b"HTTP/1.1 101 Switching Protocols\r\n", agreed, others, stamps.besides(lines.seen), b"\r\n"))


def _digest(key: bytes) -> bytes:
    return accept_key(key.decode("ascii")).encode("ascii")


def _listed(request: Request, name: bytes, *, lower: bool = False) -> list[bytes]:
    """The elements of a comma-separated field, over all its lines; empty ones don't count (RFC 9110 section 5.6.1)."""
    values = b",".join(fields(request).getall(name))
    elements = [element.strip(b" \t") for element in (values.lower() if lower else values).split(b",")]
    return [element for element in elements if element]
