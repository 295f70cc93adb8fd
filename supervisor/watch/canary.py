"""Whether a release that is being rolled to may go on: its workers' pulse, memory and answers, judged. Pure.

Invariant: a verdict is a sentence for the log, or None; asking twice with the same look gives the same answer. It is
compared with what the old release does at the same time wherever both would suffer alike: when the machine hangs or
the database is gone, the new release is not to blame.
"""

from __future__ import annotations

import math

from msgspec import Struct

from supervisor.watch.evidence import Answers, is_worse
from supervisor.watch.limits import megabytes

STALLED_AFTER = 1.0  # seconds that an event loop may be blocked while its release is watched
HEAD_START = 4  # requests that a canary may take before it has to keep to its share


class Pulse(Struct, frozen=True):
    """Of one worker of the new release. `blocked` is for how many seconds its event loop has not turned."""

    slot: int
    blocked: float
    rss_bytes: int


class Look(Struct, frozen=True):
    """All that is known at one moment. Answers are since the watch began, `earlier` the old release's before that."""

    pulses: tuple[Pulse, ...]
    new: Answers
    old: Answers
    earlier: Answers
    usual_block: float  # the old release's: the shortest of its workers' longest lags of the last minute


def verdict(look: Look, max_memory: int | None, *, owns_loop: bool) -> str | None:
    """Why the release has to go, or None. `owns_loop`: the loop does nothing but ours, so a blocked one is a fault."""
    for pulse in look.pulses:
        if max_memory is not None and pulse.rss_bytes > max_memory:
            sizes = f"{megabytes(pulse.rss_bytes)} MB is past max_memory {megabytes(max_memory)} MB"
            return f"memory of its worker {pulse.slot}: {sizes}"
        if owns_loop and pulse.blocked > max(STALLED_AFTER, 2 * look.usual_block):
            return f"its worker {pulse.slot} stalled: its event loop is blocked for {pulse.blocked:.1f} s"
    if is_worse(look.new, look.old, look.earlier):
        return f"{_of(look.new)} of its answers were errors; the old release's in the same time: {_of(look.old)}"
    return None


def allowance(share: float, accepted: int, taken: int, others: int) -> int:
    """How many connections a canary may have taken in all, that has `accepted` so many and `taken` so many requests.

    `share` in (0, 1) is the canary's of all requests; `others` is what the old release has taken in the same time. A
    connection is worth one request at least, so a canary that is behind may take as many as it lacks requests; one
    that is ahead, by requests on connections it has kept alive too, takes none until the others have caught up.
    """
    due = HEAD_START + others * share / (1 - share)
    return accepted + max(0, math.floor(due) - taken)


def _of(answers: Answers) -> str:
    return f"{answers.errors:.0f} of {answers.total:.0f}"
