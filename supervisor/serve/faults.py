"""Says on stderr what went wrong in an app: one line that names the request, and the traceback when there is one.

Invariant: one write for one fault, so that the lines of two workers never mix, and no fault of the log is the app's.
"""

from __future__ import annotations

import contextlib
import sys
import traceback

from supervisor.errors import HoldfastError


class ClientDisconnectedError(HoldfastError, OSError):
    """Raised into an app that goes on sending after its client has gone (ASGI: "send after disconnect")."""


def complain(method: str, path: bytes, what: str, error: BaseException | None = None) -> None:
    """`path` is the raw target: percent-encoded, so it can't break the line."""
    text = f"holdfast: {method} {path.decode('ascii', 'backslashreplace')}: {what}\n"
    if error is not None:
        text += "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
