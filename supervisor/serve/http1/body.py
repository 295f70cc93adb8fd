"""Takes one request's body out of the bytes of its connection.

Invariant: exactly the body is consumed, and the same bytes give the same body or the same error however they are cut.
What follows the body on the connection is given back untouched, so a connection between requests needs no parser.

Chunks are read here and not by zttp, which takes anything printable for an extension, has no bound on extensions, and
would have to be kept from one piece of the body to the next.
"""

from __future__ import annotations

import re

from supervisor.errors import HoldfastError
from supervisor.serve.http1.head import LARGE_BODY, Refusal
from supervisor.serve.limits import Limits

_CREDIT = 16  # bytes of framing that a byte of body pays for: chunks of a single byte have 5

_TOO_MUCH_FRAMING = "more chunk framing than the body deserves"

_DATA, _DATA_END, _SIZE, _TRAILERS = range(4)

# RFC 9112 section 7.1 and RFC 9110 section 5.6. The size is at most 64 bits wide.
_BLANK = rb"[ \t]*+"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_TEXT = rb"\t -~\x80-\xff"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[' + _TEXT + rb'])*+"'
_VALUE = _BLANK + rb"=" + _BLANK + rb"(?:" + _TOKEN + rb"|" + _QUOTED + rb")"
_EXTENSIONS = rb"(?:" + _BLANK + rb";" + _BLANK + _TOKEN + rb"(?:" + _VALUE + rb")?+)*+"
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:" + _EXTENSIONS + rb")\r\n")
_SIZE_BEGUN = re.compile(rb"(?:[0-9A-Fa-f]{1,16}(?:" + _BLANK + rb"(?:;[" + _TEXT + rb"]*+)?+)?+)?+\r?+")
_TRAILER_LINE = re.compile(rb"(" + _TOKEN + rb"):[" + _TEXT + rb"]*+\r\n")
_TRAILER_BEGUN = re.compile(rb"(?:" + _TOKEN + rb"(?::[" + _TEXT + rb"]*+)?+)?+\r?+")

_NO_TRAILERS = frozenset((b"content-length", b"host", b"transfer-encoding"))
"""Fields that say what the message is or where it ends: too late for that (RFC 9110 section 6.5.1)."""


class BodyError(HoldfastError):
    """A body breaks its framing; the message says how, and `refusal` is for the client."""

    refusal = Refusal(400, "malformed body")


class BodyTooLargeError(BodyError):
    """A body is more than one may be."""

    refusal = LARGE_BODY


class SizedBody:
    """A body of declared length (RFC 9112 section 6.2)."""

    __slots__ = ("remaining",)

    def __init__(self, length: int) -> None:
        self.remaining = length

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Split `data` into body and what follows the body. `remaining` is 0 when it is complete."""
        if len(data) <= self.remaining:
            self.remaining -= len(data)
            return data, b""
        body, rest = data[: self.remaining], data[self.remaining :]
        self.remaining = 0
        return body, rest


class ChunkedBody:
    """A chunked body (RFC 9112 section 7.1). Its trailers are checked and forgotten: no interface has a place for them.

    `remaining` is -1 (unknown) until the end was seen, then 0.
    """

    __slots__ = ("_budget", "_held", "_left", "_limit", "_phase", "_room", "remaining")

    def __init__(self, limits: Limits) -> None:
        self.remaining = -1
        self._phase = _SIZE
        self._left = 0  # of the chunk that is being read
        self._held = b""  # the beginning of a line
        self._limit = limits.chunk_overhead
        self._budget = self._limit
        self._room = limits.body

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """As `SizedBody.feed`. Raises `BodyError` for bad chunks, for more framing than body deserves, and for too much
        body as soon as a chunk announces it."""
        if self._held:
            data, self._held = self._held + data, b""
        pieces: list[bytes] = []
        at = 0
        while self.remaining and at < len(data):
            if self._phase is _SIZE:
                at = self._take_whole(data, at, pieces)
                if at == len(data):
                    break
            if self._phase is _DATA:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at = self._count(piece, at)
            else:
                end = self._read_line(data, at)
                if end == at:
                    self._held = data[at:]
                    return b"".join(pieces), b""
                at = end
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), data[at:]

    def _take_whole(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Take the chunks that are there with both their line's ends: what the other methods do, written out for what
        most chunks are. Returns where the last of them ends."""
        match, limit, budget, room = _SIZE_LINE.match, self._limit, self._budget, self._room
        while line := match(data, at):
            start = line.end()
            size = int(line[1], 16)
            end = start + size
            left = budget - start + at
            if not size or left < 0 or size > room or data[end : end + 2] != b"\r\n":
                break
            left += _CREDIT * size
            budget = min(left, limit) - 2
            room -= size
            pieces.append(data[start:end])
            at = end + 2
        self._budget = budget
        self._room = room
        return at

    def _count(self, piece: bytes, at: int) -> int:
        """Bytes of a chunk were taken; returns where they end."""
        size = len(piece)
        self._left -= size
        self._budget = min(self._budget + _CREDIT * size, self._limit)
        if not self._left:
            self._phase = _DATA_END
        return at + size

    def _read_line(self, data: bytes, at: int) -> int:
        """Read what stands between the chunks; returns where it ends, which is `at` when it is not whole yet."""
        if self._phase is _DATA_END:
            end = self._read_empty_line(data, at)
            if end > at:
                self._phase = _SIZE
        elif self._phase is _SIZE:
            end = self._read_size(data, at)
        else:
            end = self._read_trailer(data, at)
        self._budget -= end - at
        if self._budget < (len(data) - at if end == at else 0):
            raise BodyError(_TOO_MUCH_FRAMING)
        return end

    def _read_empty_line(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            return at + 2
        if data[at:] != b"\r":
            raise BodyError("a chunk is longer than its size")
        return at

    def _read_size(self, data: bytes, at: int) -> int:
        line = _SIZE_LINE.match(data, at)
        if line is None:
            return self._wait(_SIZE_BEGUN, data, at)
        if self._budget < line.end() - at:  # told before the size, as it is of a line that comes in pieces
            raise BodyError(_TOO_MUCH_FRAMING)
        self._left = int(line[1], 16)
        self._room -= self._left
        if self._room < 0:
            raise BodyTooLargeError("more body than may be")
        self._phase = _DATA if self._left else _TRAILERS
        return line.end()

    def _read_trailer(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self.remaining = 0
            return at + 2
        line = _TRAILER_LINE.match(data, at)
        if line is None:
            return self._wait(_TRAILER_BEGUN, data, at)
        if line[1].lower() in _NO_TRAILERS:
            raise BodyError("a trailer that can't be one")
        return line.end()

    def _wait(self, begun: re.Pattern[bytes], data: bytes, at: int) -> int:
        """A line that is not whole, or never will be."""
        if not begun.fullmatch(data, at):
            raise BodyError("a malformed chunk size, extension or trailer")
        return at
