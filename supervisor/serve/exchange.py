"""What a connection and an app's request have to say to each other, whatever interface the app has.

Invariant: an exchange ends once. Either it writes a whole answer and calls `Connection.finish`, or it calls
`Connection.cut`, or it is told `lost`; after either of the last two it writes nothing, and calls `Tally.leave` when the
app's code has ended.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol, TypeAlias

from supervisor.serve.access.trace import Trace
from supervisor.serve.http1.answer import Headers, Stamps
from supervisor.serve.http1.familiar import Head

if TYPE_CHECKING:
    from supervisor.serve.http1.connection import Connection
    from supervisor.serve.wsgi.pool import Pool

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

    def own(self, status: int, stamps: Stamps, *, keep: bool = False, text: str = "", fields: Headers = ()) -> bytes:
        """Our own answer in the app's place, which has not begun one; see `Answer`."""

    def lost(self) -> None:
        """Nothing written from now on reaches the client."""


class Bridge(Protocol):
    """One app, as the service sees it, whatever its interface."""

    @property
    def open(self) -> Opener:
        """For a plain request."""

    @property
    def open_websocket(self) -> Opener | None:
        """For a handshake; None: the interface knows none."""

    @property
    def draining(self) -> asyncio.Event | threading.Event:
        """What tells the app that the worker leaves."""

    @property
    def pool(self) -> Pool | None:
        """The threads that run the app; None: the loop does."""

    @property
    def owns_loop(self) -> bool:
        """Whether the loop is not the app's to block, as it is inline."""

    @property
    def live(self) -> Collection[Exchange]:
        """Those whose app code is running, or is yet to."""

    @property
    def load(self) -> int:
        """How much of the service's capacity is taken."""

    @property
    def has_line(self) -> bool:
        """Whether requests wait for their turn, which no thread's end brings."""

    async def startup(self) -> None:
        """Raises `AppError` when the app can't start."""

    async def shutdown(self) -> None:
        """The worker ends."""

    def is_running(self) -> bool:
        """Whether app code is running, be it after its answer, or is yet to."""

    def is_full(self) -> bool:
        """Whether a request more would find no room, be the service's there or not."""

    def keeps_up(self) -> bool:
        """Whether a request that finds no room here has its turn soon."""

    def has_room(self) -> None:
        """There may be room in the service for one that waits."""

    def feel(self, lag: float) -> None:
        """The loop has come so many seconds late."""

    def cut(self) -> None:
        """Give up on whatever runs."""
