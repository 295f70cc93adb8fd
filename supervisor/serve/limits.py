"""Every bound on what one client may take: bytes, seconds, lines. One frozen record, one place to read them.

Invariant: nothing that a client controls grows, or lasts, without a number in here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from supervisor.config.settings import MAX_REQUEST_FIELDS, AppSettings

TICK = 0.5
"""Seconds between two sweeps over the connections. Deadlines are counted in ticks, so a stall makes them late, not
early: a worker that was blocked for a minute does not find all its clients expired."""

NEVER = 1 << 62
"""A deadline that no tick reaches."""

UNLIMITED = 1 << 72
"""A number that no client reaches, also when it only declares one: lengths and sizes of chunks have 64 bits."""

_SHORTEST_FIELD = 4  # bytes: a name, a colon, the line's end


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes are bytes, times seconds. The defaults hold for an application server behind a proxy or on the open net."""

    request_line: int = 8 * 1024
    head: int = 64 * 1024
    fields: int = MAX_REQUEST_FIELDS
    body: int = UNLIMITED
    read_ahead: int = 64 * 1024  # body or pipelined bytes held for an app that does not take them yet
    discard: int = 64 * 1024  # an unread body up to this size is skipped to keep the connection, above it is closed
    chunk_overhead: int = 16 * 1024  # chunk sizes, extensions and trailers, beyond 16 bytes for each byte of body
    memory_body: int = 256 * 1024  # a gathered body above this lies in a temporary file
    proxy_header: float = 5.0  # from the connection to the end of its PROXY header
    tls_handshake: float = 10.0  # from the connection to the first byte under TLS
    first_byte: float = 60.0  # a fresh connection that says nothing
    head_timeout: float = 15.0  # from a head's first byte to its last
    body_idle: float = 30.0  # between two pieces of a body that the app is waiting for
    write_idle: float = 60.0  # a client that takes nothing of its answer
    half_closed: float = 1.0  # until an app that waits for its client's end is told that one only half closed is gone
    closing: float = 2.0  # from our half of the close to the client's
    keepalive: float = 75.0
    keepalive_requests: int = UNLIMITED  # on one connection
    connections: int = 16 * 1024  # of one worker

    @classmethod
    def of(cls, settings: AppSettings) -> Self:
        """The app's own, where it has a say; the others are nobody's to choose."""
        return cls(
            request_line=settings.limit_request_line,
            head=settings.limit_request_head,
            fields=settings.limit_request_fields,
            body=UNLIMITED if settings.max_body is None else settings.max_body,
            first_byte=settings.first_byte_timeout,
            head_timeout=settings.head_timeout,
            body_idle=settings.body_timeout,
            write_idle=settings.send_timeout,
            keepalive=settings.keepalive,
            keepalive_requests=settings.keepalive_requests or UNLIMITED,
            connections=settings.max_connections,
        )

    @property
    def small_head(self) -> int:
        """Bytes up to which a head breaks no limit, whatever is in it, but for those that the parser knows itself."""
        fields = UNLIMITED if self.fields >= MAX_REQUEST_FIELDS else _SHORTEST_FIELD * self.fields
        return min(self.request_line, self.head, fields)


def ticks(seconds: float) -> int:
    """`seconds` in whole ticks, rounded up, and one more since the current tick is partly over."""
    return int(-(-seconds // TICK)) + 1
