"""Where a connection is. Pure names; `http1` moves between them.

    IDLE ──first byte──► HEAD ──whole head──► BUSY ──answer out──► IDLE, or NEXT when more is there already
      │                   │                     ├────body unread──► SKIP ──body's end──► IDLE, NEXT
      └───────────────────┴──refused, expired──►└────last answer──► CLOSING ──client's end──► CLOSED

Invariant: only IDLE may be closed, or given to another process, without a word: in every other state the client is owed
an answer, has sent part of a request, or has been told of the end already.
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """NEXT: pipelined bytes wait for their turn in the event loop. SKIP: the rest of a body that no app took."""

    IDLE = 1
    HEAD = 2
    BUSY = 3
    SKIP = 4
    NEXT = 5
    CLOSING = 6
    CLOSED = 7


# As plain globals: reaching a member through its class costs a hot path ten times as much.
IDLE, HEAD, BUSY, SKIP, NEXT, CLOSING, CLOSED = State
