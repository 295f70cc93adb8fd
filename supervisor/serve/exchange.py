"""What a connection and an app's request have to say to each other, whatever interface the app has.

Invariant: an exchange ends once. Either it writes a whole answer and calls `Connection.finish`, or it calls
`Connection.cut`, or it is told `lost`; after either of the last two it writes nothing, and calls `Tally.leave` when the
app's code has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from supervisor.serve.access.trace import Trace
from supervisor.serve.http1.familiar import Head

if TYPE_CHECKING:
    from supervisor.serve.http1.connection import Connection

Opener: TypeAlias = "Callable[[Connection, Head, bool], Exchange]"
"""Makes the exchange for a request: connection, head, whether the connection may live on."""


class Exchange(Protocol):
    """One request with the app, as the connection sees it."""

    head: Head
    status: int  # 0 until the answer's head was written
    sent: int  # bytes of body
    keep: bool  # whether the connection may live on after this answer
    since: float  # when the head came, by time.monotonic: the loop's own clock stands still while an app blocks it
    trace: Trace  # the request's names
    holds_body: bool  # the client waits for 100 Continue

    def start(self) -> None:
        """Run the app. Pieces of the body may have been fed before."""

    def feed(self, data: bytes, done: bool) -> None:
        """A piece of the body; `done` with the last, which may be empty."""

    def writable(self) -> None:
        """The kernel has taken everything written so far."""

    def half_closed(self) -> None:
        """The client has long said that it sends no more, and has probably gone; what is written may still reach it."""

    def answered(self) -> bytes:
        """Status line and fields of the answer as the app has set them; empty for an answer of our own."""

    def lost(self) -> None:
        """Nothing written from now on reaches the client."""
