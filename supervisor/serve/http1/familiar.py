"""Heads of requests that have come before, found again by their bytes: pollers, probes and proxies repeat themselves.

Invariant: what is known of a head follows from its bytes alone. So the same bytes mean the same again, and neither
parser nor judge is asked. A head is kept when it comes for the second time among those that are noted, while there is
room; after a minute all are forgotten. So heads that never come again cost a look each, and cannot drive out those
that do.
"""

from __future__ import annotations

from typing import Any

import msgspec
from zttp import Request

KEPT = 256
LONGEST = 1024  # bytes of a head that is kept
SELDOM = 7  # whoever notes does so when none of these bits of a count of requests is set: noting costs more than it may
_MARKS = 256


class Familiar(msgspec.Struct, gc=False):
    """What is known of a head."""

    request: Request
    method: str
    path: bytes
    query: bytes
    last: bool | None  # the client says that it sends no further request
    draft: dict[Any, Any] = {}  # what an app is told of it: the scope, or the environ by address; empty at first


class Heads:
    """One worker's. To be noted, a head must have passed the judge, have no body, and ask for no upgrade."""

    __slots__ = ("_kept", "_marks", "find")

    def __init__(self) -> None:
        self._kept: dict[bytes, Familiar] = {}
        self._marks = [0] * _MARKS
        self.find = self._kept.get

    def note(self, raw: bytes, request: Request, method: str, last: bool | None) -> None:
        """A head has come as `raw`, and was not to be found."""
        mark = hash(raw)
        place = mark % _MARKS
        if self._marks[place] != mark:
            self._marks[place] = mark
        elif len(self._kept) < KEPT and len(raw) <= LONGEST:
            self._kept[raw] = Familiar(request, method, request.path, request.query, last)

    def forget(self) -> None:
        """Find none of them any more; who still comes is soon kept again."""
        self._kept.clear()
