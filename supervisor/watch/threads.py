"""Which of a WSGI app's threads are stuck: busy with one and the same request, from which nothing comes. Pure.

Invariants:
- A thread is stuck from when its request began, last sent something, or last waited for its client; to wait for a slow
  client is no fault of the app's, and has limits of its own.
- Each request is told once, and its end once if it was told. Time in which nobody looked does not count.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

MAX_GAP = 1.0  # seconds: a look that comes later than this has missed what happened


class Thread(Struct, frozen=True):
    """One that has a request, now. `job`, when it came, tells it from the next; `sent` counts what has come of it."""

    job: float
    sent: int
    waits_for_client: bool


class Held(Struct, frozen=True):
    """What is known of it. `since` and `moved` are monotonic seconds: the request's begin, and its last progress."""

    job: float
    sent: int
    since: float
    moved: float
    is_told: bool = False


class Look(Struct, frozen=True):
    """What has been found. By thread; `over` are requests that were told, with the seconds that they took."""

    held: Mapping[str, Held]
    stuck: tuple[str, ...]  # to be told now
    over: Mapping[str, float]
    all_since: float  # since when all threads are stuck; 0 when one is not


def look(
    known: Mapping[str, Held], threads: Mapping[str, Thread], size: int, warn: float, now: float, gap: float
) -> Look:
    """Look at the threads that have a request, of `size` there can be; the last look was `gap` seconds ago."""
    lost = gap if gap > MAX_GAP else 0.0
    held = {number: _hold(known.get(number), thread, now, lost) for number, thread in threads.items()}
    over = {
        number: now - before.since
        for number, before in known.items()
        if before.is_told and (number not in held or held[number].job != before.job)
    }
    stuck = tuple(number for number, it in held.items() if not it.is_told and now - it.moved >= warn)
    for number in stuck:
        it = held[number]
        held[number] = Held(it.job, it.sent, it.since, it.moved, is_told=True)
    all_since = max(it.moved for it in held.values()) if held and len(held) >= size else 0.0
    return Look(held, stuck, over, all_since)


def _hold(before: Held | None, thread: Thread, now: float, lost: float) -> Held:
    if before is None or before.job != thread.job:
        return Held(thread.job, thread.sent, now, now)
    has_moved = thread.waits_for_client or thread.sent != before.sent
    moved = now if has_moved else min(now, before.moved + lost)
    return Held(thread.job, thread.sent, before.since, moved, before.is_told)
