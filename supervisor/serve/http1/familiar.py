"""Heads of requests, and those that have come before, found again by their bytes: pollers, probes and proxies repeat
themselves.

Invariant: what is known of a head follows from its bytes alone. So the same bytes mean the same again, and neither
parser nor judge is asked. A head is kept when it comes for the second time among those that are noted, while there is
room; after a minute all are forgotten. So heads that never come again cost a look each, and cannot drive out those
that do.
"""

from __future__ import annotations

from typing import Any

import msgspec
from zttp import Request

from supervisor.serve.edge.peers import speaks_for_others
from supervisor.serve.http1.answer import Lines

KEPT = 256
LONGEST = 1024  # bytes of a head that is kept
SELDOM = 7  # whoever notes does so when none of these bits of a count of requests is set: noting costs more than it may
_MARKS = 256


class Head(msgspec.Struct, gc=False):
    """What is known of a head: the answers to what each request asks of it, beside its bytes and its fields."""

    raw: bytes
    request: Request
    method: str
    path: bytes  # of the target, as it came
    query: bytes
    last: bool | None  # the client says that it sends no further request
    head_only: bool  # the method is HEAD
    legacy: bool  # HTTP/1.0
    is_plain: bool  # neither of the two
    says_more: bool  # than its Host
    names_others: bool  # may say whom a trusted peer speaks for; of one that is kept, it does
    is_kept: bool = False
    draft: dict[Any, Any] = {}  # what an app is told of one that is kept: the scope, or the environ by address
    lines: Lines | None = None  # what the app has answered to one that is kept
    logged: tuple[str, ...] = ()  # what it says in the access log

    def answered(self, lines: Lines) -> None:
        """The app has answered so, which it may do again."""
        if self.is_kept and lines.fields is not None:
            self.lines = lines


def head_of(raw: bytes, request: Request, path: bytes, query: bytes, last: bool | None) -> Head:
    """Any that was read and judged; `path` and `query` may be those of an absolute target."""
    method, legacy = request.method.decode("ascii"), request.http_version == b"1.0"
    head_only = method == "HEAD"
    plain, more = not (head_only or legacy), len(request.headers) > 1
    return Head(raw, request, method, path, query, last, head_only, legacy, plain, more, True)


class Heads:
    """One worker's. To be noted, a head must have passed the judge, have no body, and ask for no upgrade."""

    __slots__ = ("_kept", "_marks", "find")

    def __init__(self) -> None:
        self._kept: dict[bytes, Head] = {}
        self._marks = [0] * _MARKS
        self.find = self._kept.get

    def note(self, head: Head) -> None:
        """It has come, and was not to be found."""
        raw = head.raw
        mark = hash(raw)
        place = mark % _MARKS
        if self._marks[place] != mark:
            self._marks[place] = mark
        elif len(self._kept) < KEPT and len(raw) <= LONGEST:
            head.is_kept = True
            head.names_others = speaks_for_others(head.request)
            self._kept[raw] = head

    def forget(self) -> None:
        """Find none of them any more; who still comes is soon kept again."""
        self._kept.clear()
