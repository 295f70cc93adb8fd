"""Whether a worker has used itself up: past its memory limit, its share of requests or its age. Pure.

Invariant: a verdict is a sentence for the log, or None; asking twice with the same sample gives the same answer.
"""

from __future__ import annotations

from msgspec import Struct

from supervisor.config.settings import MemoryShare

JITTER = 0.1


class Limits(Struct, frozen=True):
    """Of one worker. `max_requests` and `max_age` (seconds) have their jitter already in them."""

    max_memory: int | None = None  # bytes of RSS
    max_requests: int | None = None
    max_age: float | None = None


class Sample(Struct, frozen=True):
    """Of one worker, now. `age` is seconds since it was asked for."""

    rss_bytes: int
    requests: int
    age: float = 0.0


def max_memory(setting: int | MemoryShare | None, available: int, workers: int) -> int | None:
    """Bytes that one of `workers` may hold; `available` is what this machine or cgroup has for all."""
    if isinstance(setting, MemoryShare):
        return int(available * setting.part) // max(1, workers)
    return setting


def jittered(limit: float, chance: float) -> float:
    """The limit of one worker: spread by a tenth either way, so that equal workers don't reach it together."""
    return limit * (1 - JITTER + 2 * JITTER * chance)


def of_worker(max_requests: int | None, max_age: float | None, chances: tuple[float, float]) -> Limits:
    """What one worker may use up; `chances` in [0, 1) spread the one and the other."""
    return Limits(
        max_requests=None if max_requests is None else max(1, round(jittered(max_requests, chances[0]))),
        max_age=None if max_age is None else jittered(max_age, chances[1]),
    )


def verdict(limits: Limits, sample: Sample) -> str | None:
    """Why the worker is to be replaced, or None when it may stay."""
    if is_pressing(limits, sample):
        assert limits.max_memory is not None
        return f"memory: {megabytes(sample.rss_bytes)} MB is past max_memory {megabytes(limits.max_memory)} MB"
    if limits.max_requests is not None and sample.requests >= limits.max_requests:
        return f"requests: {sample.requests} served, its limit was {limits.max_requests}"
    if limits.max_age is not None and sample.age >= limits.max_age:
        return f"age: {sample.age:.0f} s, its limit was {limits.max_age:.0f} s"
    return None


def is_pressing(limits: Limits, sample: Sample) -> bool:
    """It goes before those who have only served for long enough: its memory may be what others lack."""
    return limits.max_memory is not None and sample.rss_bytes > limits.max_memory


def megabytes(size: int) -> str:
    return f"{size / 2**20:.0f}"
