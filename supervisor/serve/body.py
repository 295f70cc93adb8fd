"""Takes one request's body out of the bytes of its connection.

Invariant: exactly the body is consumed. What follows it on the connection is given back untouched, so that a parser
never holds a byte of the next message, and a connection between requests needs no parser at all.
"""

from __future__ import annotations

from zttp import Data, EndOfMessage, H1Connection, RemoteProtocolError

from supervisor.serve.limits import Limits

BodyError = RemoteProtocolError
"""Raised by `feed` for a body that breaks its framing."""


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
    """A chunked body (RFC 9112 section 7.1), decoded by the parser that read its head.

    The message ends in an empty line, so the parser is fed up to each empty line in turn and asked whether that
    was the end. `remaining` is -1 (unknown) until the end was seen, then 0.
    """

    __slots__ = ("_budget", "_parser", "_seam", "remaining")

    def __init__(self, parser: H1Connection, limits: Limits) -> None:
        self._parser = parser
        self._budget = limits.chunk_overhead
        self._seam = b""  # the last bytes fed, where an empty line may have begun
        self.remaining = -1

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """As `SizedBody.feed`. Raises `BodyError` for bad chunks and for more framing than body deserves."""
        pieces: list[bytes] = []
        start = 0
        while start < len(data):
            end = self._next_stop(data, start)
            self._decode(data[start:end] if start or end < len(data) else data, pieces)
            start = end
            if not self.remaining:
                break
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), data[start:]

    def _next_stop(self, data: bytes, start: int) -> int:
        """Where the next empty line ends, which may have begun in the bytes before; else the end of `data`."""
        if start == 0 and self._seam:
            window = self._seam + data[:3]
            found = window.find(b"\r\n\r\n")
            if found >= 0:
                return found + 4 - len(self._seam)
        found = data.find(b"\r\n\r\n", start)
        return len(data) if found < 0 else found + 4

    def _decode(self, data: bytes, pieces: list[bytes]) -> None:
        self._seam = (self._seam + data)[-3:] if len(data) < 3 else data[-3:]
        event = self._parser.receive_event(data)
        size = 0
        while isinstance(event, Data):
            pieces.append(event.data)
            size += len(event.data)
            event = self._parser.next_event()  # type: ignore[assignment]
        self._budget += 17 * size - len(data)
        if self._budget < 0:
            raise BodyError("more chunk framing than the body deserves")
        if isinstance(event, EndOfMessage):
            self.remaining = 0
