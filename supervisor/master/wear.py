"""How an app's workers wear: who leaks, and who has used itself up by its memory, its requests or its age.

Invariant: nothing is decided here. What is a leak is `watch.leak`'s to say, what is too much `watch.limits`', and when
somebody may go the fleet's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from supervisor.config.settings import AppSettings
from supervisor.kernel.capacity import available_memory
from supervisor.master.generations import Releases
from supervisor.master.news import News
from supervisor.master.vitals import Sampler
from supervisor.master.worker import Worker
from supervisor.watch import leak, limits

LOOK_UP_EVERY = 10.0  # seconds; a container's limit may change while it runs


class WearOwner(Protocol):
    """The app whose workers they are."""

    releases: Releases
    news: News

    def max_memory(self, settings: AppSettings) -> int | None: ...
    def recycle(self, slot: int, why: str, *, insist: bool = False) -> None: ...


class Wear:
    """`look` is to be called after each round of samples."""

    def __init__(self, owner: WearOwner, sampler: Sampler) -> None:
        self._owner = owner
        self._sampler = sampler
        self._available = 0
        self._looked_up_at = float("-inf")
        self._trends: dict[int, leak.Trend] = {}  # by worker

    def available_memory(self, now: float) -> int:
        """Bytes that all processes of this instance may hold together."""
        if now - self._looked_up_at >= LOOK_UP_EVERY:
            self._available, self._looked_up_at = available_memory(), now
        return self._available

    def look(self, settled: Sequence[tuple[int, Worker]], now: float) -> None:
        """Have those replaced that must be, of these slots and their workers: the largest come first, then who has
        served longest. The fleet takes one at a time."""
        seen = [(slot, self._limits(worker), self._sample(worker, now)) for slot, worker in settled]
        for slot, limit, sample in sorted(seen, key=lambda each: not limits.is_pressing(each[1], each[2])):
            if why := limits.verdict(limit, sample):
                self._owner.recycle(slot, why)

    def look_for_leaks(self, workers: Sequence[Worker], now: float) -> None:
        """Tell of each worker whose memory climbs steadily. Where it has no limit, it may have an even share of all."""
        serving = [worker for worker in workers if worker.is_admitted and not worker.is_leaving]
        self._trends = {each.number: self._trends.get(each.number, leak.Trend()) for each in serving}
        share = self.available_memory(now) // max(1, len(serving))
        for worker in serving:
            own = self._owner.max_memory(self._owner.releases[worker.generation].settings)
            rss, age = self._sampler.of(worker).rss_bytes, now - worker.began
            trend, climb = leak.step(self._trends[worker.number], rss, age, own or share, now)
            self._trends[worker.number] = trend
            if climb is not None:
                self._owner.news.leaking(worker, climb, "max_memory" if own else "its share of the memory")

    def _limits(self, worker: Worker) -> limits.Limits:
        max_memory = self._owner.max_memory(self._owner.releases[worker.generation].settings)
        return limits.Limits(max_memory, worker.limits.max_requests, worker.limits.max_age)

    def _sample(self, worker: Worker, now: float) -> limits.Sample:
        return limits.Sample(self._sampler.of(worker).rss_bytes, worker.requests, now - worker.began)
