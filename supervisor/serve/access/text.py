"""How the values of a request are written in a line of the access log.

Invariant: what a client has sent comes out in printable ASCII, without a quote or backslash of its own, and cut at
`MAX_VALUE` bytes. What was written lately is found again, in tables whose size is bounded.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from supervisor.serve.exchange import Exchange

K = TypeVar("K")

MAX_VALUE = 8192  # bytes of one value that are logged: as much as a request line may have
_KEPT = 1024
_KEPT_SIZE = 256
_PLAIN = bytes(i for i in range(32, 127) if i not in b'"\\')


def quoted(value: bytes) -> str:
    """As text between quotes, Apache's way: everything else than printable ASCII is escaped as `\\xhh`."""
    value = _cut(value)
    if not value.translate(None, _PLAIN):
        return value.decode("ascii")
    return "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in value)


def json_quoted(value: bytes) -> str:
    """As a JSON string with its quotes. Bytes above 127 are read as latin-1, as everywhere in HTTP/1.1."""
    value = _cut(value)
    if not value.translate(None, _PLAIN):
        return f'"{value.decode("ascii")}"'
    return json.dumps(value.decode("latin-1")).replace("\x7f", "\\u007f")


def _cut(value: bytes) -> bytes:
    return value if len(value) <= MAX_VALUE else value[:MAX_VALUE] + b"..."


class Memo(dict[K, str]):
    """What `write` makes of a key. It `keeps` the last thousand or so, but for long ones."""

    def __init__(self, write: Callable[[K], str], *, keeps: bool = True) -> None:
        self._write = write
        self._keeps = keeps

    def __missing__(self, key: K) -> str:
        text = self._write(key)
        if self._keeps and len(text) <= _KEPT_SIZE:
            if len(self) >= _KEPT:
                self.clear()
            self[key] = text
        return text


DIGITS = tuple(f"{number:03}" for number in range(1000))


def seconds(micros: int) -> str:
    """Decimal seconds, from microseconds."""
    return f"{micros // 1000000}.{micros % 1000000:06}"


def user_of(authorization: bytes) -> str:
    """The name of HTTP's Basic authentication (RFC 7617), `-` for none. It has no spaces, to break no columns."""
    scheme, _, credentials = authorization.partition(b" ")
    if scheme.lower() != b"basic" or len(credentials) > 1024:
        return "-"
    try:
        name = base64.b64decode(credentials.strip(), validate=True).partition(b":")[0]
    except binascii.Error:
        return "-"
    return quoted(name).replace(" ", "\\x20") or "-"


def answered_field(exchange: Exchange, name: str) -> str:
    """A field that the app has set in its answer, `-` for none."""
    text = exchange.answered()
    start = f"\r\n{name.lower()}: ".encode()
    at = text.lower().find(start)
    return "-" if at < 0 else quoted(text[at + len(start) : text.index(b"\r\n", at + 2)])


def variable(exchange: Exchange, name: str) -> str:
    """Of the environ that a WSGI app was called with, or has set there; else of the process's environment."""
    environ = getattr(exchange, "environ", {})
    value = environ.get(name, environ.get(name.upper()))
    if value is None:
        return quoted(os.environb.get(os.fsencode(name), b"-"))
    return quoted(str(value).encode("latin-1", "backslashreplace"))
