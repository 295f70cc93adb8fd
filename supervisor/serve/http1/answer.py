"""Turns what an app answers into checked HTTP/1.1 bytes. Pure: no socket, no clock, no loop.

Invariant: what leaves here is one well-formed message. Its framing is ours: a declared Content-Length is kept to the
byte, anything else is chunked (or, for HTTP/1.0, ends with the connection); HEAD, 204 and 304 have no body; no field
carries CR, LF or NUL. An app that breaks its own declaration gets `AnswerError`, and the connection must be closed.

RFC 9112 sections 4, 6 and 7; RFC 9110 sections 6.4 and 8.6.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from supervisor.errors import HoldfastError
from supervisor.serve.access.trace import Trace

CONTENT_LENGTH = 1
TRANSFER_ENCODING = 2
CONNECTION = 4
DATE = 8
SERVER = 16

_SPECIAL = {
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"date": DATE,
    b"server": SERVER,
}
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES = {
    status: f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n".encode("ascii") for status in range(200, 1000)
}
_NAMES_KEPT = 1024
_RENDERED_KEPT = 256
_RENDERED_SIZE = 1024
JOINED = 64 * 1024  # a body below this is joined to its head: one write, one packet

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_BODYLESS = (204, 205, 304)  # RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5
_LENGTHLESS = (204, 205)  # whose Content-Length, if any, is ours to say

_OURS = (CONNECTION, TRANSFER_ENCODING)
"""Fields that an app may set but that we write: they speak about this connection, which is not the app's."""

_PLAIN_TEXT = ((b"content-type", b"text/plain; charset=utf-8"),)

Headers = Iterable[tuple[bytes, bytes]]


class AnswerError(HoldfastError):
    """An app answers against HTTP or against its own Content-Length. The message is one line that says how."""


class Stamps:
    """The `date` and `server` lines every answer carries, rendered once a second."""

    __slots__ = ("both", "date", "farewell", "last", "server")

    def __init__(self) -> None:
        self.server = b"server: holdfast\r\n"
        self.set(0.0)

    def set(self, now: float) -> None:
        """`now` in seconds since the epoch (RFC 9110 section 5.6.7: IMF-fixdate)."""
        seconds = time.gmtime(now)
        day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[seconds.tm_wday]
        month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[seconds.tm_mon - 1]
        clock = time.strftime("%H:%M:%S", seconds)
        self.date = f"date: {day}, {seconds.tm_mday:02} {month} {seconds.tm_year} {clock} GMT\r\n".encode("ascii")
        self.both = self.date + self.server
        self.last = self.both + b"\r\n"  # with the empty line that ends a head
        self.farewell = self.both + b"connection: close\r\n\r\n"  # the same of a connection's last answer

    def besides(self, seen: int) -> bytes:
        """The lines that the app has not written itself."""
        return (b"" if seen & DATE else self.date) + (b"" if seen & SERVER else self.server)


_names: dict[bytes, tuple[bytes, int]] = {}


def _learn(name: bytes) -> tuple[bytes, int]:
    """Check a field name once and remember how it is written."""
    if not isinstance(name, bytes) or not _TOKEN.fullmatch(name):
        raise AnswerError(f"the header name {name!r} is not a token")
    if len(_names) >= _NAMES_KEPT:
        _names.clear()
    entry = _names[name] = (name + b": ", _SPECIAL.get(name.lower(), 0))
    return entry


class Lines:
    """A status and the app's fields, checked and rendered."""

    __slots__ = ("closes", "declared", "fields", "head", "said", "seen", "simple", "stamp", "status", "text")

    def __init__(self, status: int, text: bytes, declared: int | None, seen: int, closes: bool) -> None:
        self.status = status
        self.text = text
        self.declared = declared  # the app's Content-Length
        self.seen = seen  # which special fields the app has set
        self.closes = closes  # the app wants the connection closed
        # Of the special fields only Content-Length is set, and it counts a body that is joined to the head.
        self.simple = seen == CONTENT_LENGTH and status not in _BODYLESS and declared is not None and declared < JOINED
        self.said: int | str = status  # the status, as the app gave it
        self.fields: list[Any] | None = None  # its fields, unless they could change behind our back
        self.stamp = b""  # the last lines that `head` ends in
        self.head = b""  # the whole head of an answer that is `simple`, once `stamped`

    def stamped(self, stamp: bytes) -> bytes:
        """The whole head, ending in `stamp`; joined once for all answers of the same second."""
        self.stamp = stamp
        self.head = head = self.text + stamp
        return head


_rendered: dict[tuple[int | str, tuple[Any, ...]], Lines] = {}


def render(status: int, headers: Headers) -> Lines:
    """Check and render what an ASGI app answers. Raises `AnswerError`.

    Apps repeat themselves: what was rendered lately is found again by its content. Who has the `Lines` of an answer
    that may be the same compares `said` and `fields`, in a fifth of the time.
    """
    fields = tuple(headers)
    key = (status, fields)
    try:
        known = _rendered.get(key)
    except TypeError:  # pairs that are lists, values that are no bytes: legal, but not to be found again
        return _render(status, fields)
    return known if known is not None else _keep(key, _render(status, fields))


def render_text(status: str, headers: Iterable[tuple[str, str]]) -> Lines:
    """The same for a WSGI app: a status with its reason (which is not used), and latin-1 text. Raises `AnswerError`."""
    fields = tuple(headers)
    key = (status, fields)
    known = _rendered.get(key)
    if known is not None:
        return known
    code = status[:3]
    if not code.isdigit():
        raise AnswerError(f"the status {status!r} does not begin with a number")
    return _keep(key, _render(int(code), [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]))


def _keep(key: tuple[int | str, tuple[Any, ...]], lines: Lines) -> Lines:
    if len(lines.text) <= _RENDERED_SIZE:
        lines.said, lines.fields = key[0], list(key[1])
        if len(_rendered) >= _RENDERED_KEPT:
            _rendered.clear()
        _rendered[key] = lines
    return lines


def _render(status: int, headers: Headers) -> Lines:
    parts = [_STATUS_LINES.get(status, b"")]
    declared: int | None = None
    seen = 0
    closes = False
    for name, value in headers:
        prefix, kind = _names.get(name) or _learn(name)
        if kind:
            if kind == CONTENT_LENGTH:
                declared = _length(value, seen)
            seen |= kind
            closes = closes or (kind == CONNECTION and b"close" in value.lower())
            if kind in _OURS or (kind == CONTENT_LENGTH and status in _LENGTHLESS):
                continue
        parts += (prefix, value, b"\r\n")
    text = b"".join(parts)
    if not parts[0]:
        raise AnswerError(f"{status!r} is not a status that an answer can have")
    _check_breaks(text, (len(parts) + 2) // 3)  # each field gave three pieces, the status one
    return Lines(status, text, declared, seen, closes)


def render_fields(headers: Headers) -> bytes:
    """Check and render fields that belong to no head of ours: of an interim answer, or behind a body. Raises
    `AnswerError`."""
    parts: list[bytes] = []
    for name, value in headers:
        parts += ((_names.get(name) or _learn(name))[0], value, b"\r\n")
    text = b"".join(parts)
    _check_breaks(text, len(parts) // 3)
    return text


def _check_breaks(text: bytes, lines: int) -> None:
    """Every line break beyond one a line was smuggled in."""
    if text.count(b"\n") != lines or text.count(b"\r") != lines or b"\0" in text:
        raise AnswerError("a header of the answer has a line break or NUL in it")


def _length(value: bytes, seen: int) -> int:
    if seen & CONTENT_LENGTH or not value.isdigit() or len(value) > 18:
        raise AnswerError(f"the app's Content-Length is repeated or not a number: {value!r}")
    return int(value)


class Asked(Protocol):
    """What an answer's framing goes by, of the request."""

    @property
    def head_only(self) -> bool:
        """The method is HEAD."""

    @property
    def legacy(self) -> bool:
        """The request came as HTTP/1.0."""


class _Asked(NamedTuple):
    head_only: bool
    legacy: bool


class Answer:
    """One answer in the making. `keep` says whether the connection may live on after it.

    Call `whole` once, or `begin`, any number of `more`, and `end`. All return bytes to write, maybe none.
    """

    __slots__ = (
        "_lines",
        "bodyless",
        "chunked",
        "head",
        "keep",
        "remaining",
        "sent",
        "status",
        "trace",
    )

    def __init__(self, method: str, legacy: bool, keep: bool) -> None:
        self.head: Asked = _Asked(method == "HEAD", legacy)
        self.keep = keep
        self.status = 0
        self.sent = 0  # bytes of body written, as the access log counts them
        self.trace: Trace  # set by whoever knows the request
        self._lines: Lines | None  # what the app has said, once it has
        self.bodyless: bool
        self.chunked: bool
        self.remaining: int | None  # what is still owed of a declared Content-Length

    def answered(self) -> bytes:
        """What the app has said of the head, if that is what was sent: status line and fields, each with its line's
        end."""
        lines: Lines | None = getattr(self, "_lines", None)
        return b"" if lines is None else lines.text

    def own(self, status: int, stamps: Stamps, *, keep: bool = False, text: str = "", fields: Headers = ()) -> bytes:
        """An answer of our own in the app's place, complete, as plain text with more `fields`."""
        self.keep = keep
        self._lines = None
        return b"".join(self.whole(render(status, (*_PLAIN_TEXT, *fields)), _text(status, text), stamps))

    def whole(self, lines: Lines, body: bytes, stamps: Stamps) -> tuple[bytes, bytes]:
        """Head and complete body, joined; a large body stays apart, and is the second piece."""
        status, declared = lines.status, lines.declared
        if lines.closes:
            self.keep = False
        body = frozen(body)
        size = len(body)
        framing = b""
        if self.head.head_only or status in _BODYLESS:
            framing = self._length_of_none(status, size if declared is None else 0)
            body = b""
        elif declared is None:
            framing = b"content-length: %d\r\n" % size
        elif declared != size:
            raise AnswerError(f"the app declared {declared} bytes and answered {size}")
        self.status = status
        self.sent = size = len(body)
        if size < JOINED:
            return self._seal(lines, framing, stamps, body), b""
        return self._seal(lines, framing, stamps, b""), body

    def begin(self, lines: Lines, stamps: Stamps, size: int | None = None, *, chunked: bool = False) -> bytes:
        """The head of an answer whose body comes in pieces; make sure of the first before, for this counts as written.
        `size` is that of all, when it is known, and becomes its Content-Length unless it is to be `chunked` all the
        same."""
        status, self.remaining = lines.status, lines.declared
        if lines.closes:
            self.keep = False
        self.chunked = False
        self.bodyless = self.head.head_only or status in _BODYLESS
        framing = b""
        if self.bodyless:
            framing = self._length_of_none(status, size if size and self.remaining is None else 0)
            self.remaining = None
        elif size is not None and self.remaining not in (None, size):
            raise AnswerError(f"the app declared {self.remaining} bytes and answered {size}")
        elif self.remaining is None:
            if size is not None and not chunked:
                self.remaining = size
                framing = b"content-length: %d\r\n" % size
            elif self.head.legacy:
                self.keep = False
            else:
                self.chunked = True
                framing = b"transfer-encoding: chunked\r\n"
        self.status = status
        return self._seal(lines, framing, stamps, b"")

    def more(self, body: bytes) -> bytes:
        """One piece of the body."""
        if type(body) is not bytes:  # `frozen`, written out
            body = frozen(body)
        size = len(body)
        if self.bodyless or not size:
            return b""
        self.sent += size
        if self.chunked:
            return b"%x\r\n%b\r\n" % (size, body)
        if self.remaining is not None:
            self.remaining -= size
            if self.remaining < 0:
                raise AnswerError(f"the app answers more than the {self.sent + self.remaining} bytes it declared")
        return body

    def around(self, size: int) -> tuple[bytes, bytes]:
        """What goes before and after `size` bytes of the body that somebody else writes."""
        self.sent += size
        if self.remaining is not None:
            self.remaining -= size
        return (b"%x\r\n" % size, b"\r\n") if self.chunked else (b"", b"")

    def end(self, trailers: bytes = b"") -> bytes:
        """What closes the body. `trailers` are rendered fields; only a chunked body has room for them."""
        if self.remaining:
            raise AnswerError(f"the app declared {self.sent + self.remaining} bytes and answered {self.sent}")
        if not self.chunked:
            return b""
        return b"0\r\n%b\r\n" % trailers if trailers else LAST_CHUNK

    def _length_of_none(self, status: int, size: int) -> bytes:
        """The length of a body that is not sent, where it may be told: what GET would have had, or that there is none
        (RFC 9110 sections 8.6 and 15.3.6)."""
        if status == 205:
            return b"content-length: 0\r\n"
        return b"content-length: %d\r\n" % size if size and status not in _BODYLESS else b""

    def _seal(self, lines: Lines, framing: bytes, stamps: Stamps, body: bytes) -> bytes:
        """Add our own lines to the app's, and a small body to both."""
        ours = stamps.both if lines.seen < DATE else stamps.besides(lines.seen)
        if self.keep:
            last = b"connection: keep-alive\r\n\r\n" if self.head.legacy else b"\r\n"
        else:
            last = b"connection: close\r\n\r\n"
        return b"".join((lines.text, ours, framing, last, body))


def frozen(body: bytes) -> bytes:
    """`body`, or a copy of what an app may write over once `send` has returned. Raises `TypeError` for what holds no
    bytes."""
    return body if type(body) is bytes else bytes(memoryview(body))


def plain(status: int, text: str, stamps: Stamps, *, head_only: bool = False) -> bytes:
    """A complete answer of our own to what is no request for an app, as plain text: the last one of its connection."""
    return Answer("HEAD" if head_only else "GET", False, False).own(status, stamps, text=text)


def _text(status: int, text: str) -> bytes:
    return f"{status} {_REASONS[status]}{': ' if text else ''}{text}\n".encode()
