"""The last minute of one worker, in samples that the master has taken anyway.

Invariant: a worker's history takes the same two kilobytes, however long it lives.
"""

from __future__ import annotations

import struct

from supervisor.messages.crash import Moment

SAMPLES = 60
_SAMPLE = struct.Struct("@ddQQ")  # when, lag in milliseconds, RSS, requests under way


class History:
    """A ring of samples."""

    __slots__ = ("_count", "_ring")

    def __init__(self) -> None:
        self._ring = bytearray(SAMPLES * _SAMPLE.size)
        self._count = 0

    def add(self, now: float, lag_ms: float, rss_bytes: int, inflight: int) -> None:
        """One sample; the oldest of 60 goes for it."""
        _SAMPLE.pack_into(self._ring, self._count % SAMPLES * _SAMPLE.size, now, lag_ms, rss_bytes, inflight)
        self._count += 1

    def moments(self, now: float) -> tuple[Moment, ...]:
        """All there are, the oldest first, as seen from `now`."""
        found = sorted(list(_SAMPLE.iter_unpack(self._ring))[: self._count])
        return tuple(Moment(round(now - at, 1), rss, round(lag, 1), inflight) for at, lag, rss, inflight in found)
