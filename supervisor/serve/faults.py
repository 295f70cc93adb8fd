"""Says on stderr what went wrong in an app: one line that names the request, and the traceback when there is one.

Invariant: one write for one fault, so that the lines of two workers never mix, and no fault of the log is the app's.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from supervisor.errors import HoldfastError

if TYPE_CHECKING:
    from supervisor.serve.exchange import Exchange

NAMED_CUTS = 20  # at most, one by one


class ClientDisconnectedError(HoldfastError, OSError):
    """Raised into an app that goes on sending after its client has gone (ASGI: "send after disconnect")."""


def is_news_of_the_end(failure: BaseException | None) -> bool:
    """Whether an app ended, with this failure or without, by nothing but its client's going. Frameworks turn the error
    above and the disconnect messages into exceptions of their own that many apps let pass, such as Starlette's
    ClientDisconnect and WebSocketDisconnect; task groups wrap them."""
    if failure is None or isinstance(failure, asyncio.CancelledError):
        return True
    if isinstance(failure, BaseExceptionGroup):
        return all(map(is_news_of_the_end, failure.exceptions))
    return "Disconnect" in type(failure).__name__


def complain(method: str, path: bytes, what: str, error: BaseException | None = None) -> None:
    """`path` is the raw target: percent-encoded, so it can't break the line."""
    text = f"holdfast: {method} {path.decode('ascii', 'backslashreplace')}: {what}\n"
    if error is not None:
        text += "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def name_cuts(requests: Sequence[Exchange], outlived: Sequence[Exchange]) -> None:
    """A line for each request that is cut, and then for app code that runs on after its answer; then how many more."""
    now = time.monotonic()
    lines = [(each, "cut after") for each in requests] + [(each, "its app code cut after") for each in outlived]
    for exchange, what in lines[:NAMED_CUTS]:
        kind = "WebSocket" if exchange.status == 101 else exchange.head.method
        complain(kind, exchange.head.request.target, f"{what} {max(0.0, now - exchange.since):.1f} s")
    if len(lines) > NAMED_CUTS:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"holdfast: {len(lines) - NAMED_CUTS} more were cut\n")
            sys.stderr.flush()
