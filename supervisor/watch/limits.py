"""Whether a worker has used itself up: past its memory limit or its share of requests. Pure.

Invariant: a verdict is a sentence for the log, or None; asking twice with the same sample gives the same answer.
"""

from __future__ import annotations

from msgspec import Struct

REQUEST_JITTER = 0.1


class Limits(Struct, frozen=True):
    """Of one worker. `max_requests` has its jitter already in it."""

    max_memory: int | None  # bytes of RSS
    max_requests: int | None


class Sample(Struct, frozen=True):
    """Of one worker, now."""

    rss_bytes: int
    requests: int


def jittered(max_requests: int | None, chance: float) -> int | None:
    """The limit of one worker: spread by a tenth either way, so that equal workers don't reach it together."""
    if max_requests is None:
        return None
    return max(1, round(max_requests * (1 - REQUEST_JITTER + 2 * REQUEST_JITTER * chance)))


def verdict(limits: Limits, sample: Sample) -> str | None:
    """Why the worker is to be replaced, or None when it may stay."""
    if limits.max_memory is not None and sample.rss_bytes > limits.max_memory:
        return f"memory: {megabytes(sample.rss_bytes)} MB is past max_memory {megabytes(limits.max_memory)} MB"
    if limits.max_requests is not None and sample.requests >= limits.max_requests:
        return f"requests: {sample.requests} served, its limit was {limits.max_requests}"
    return None


def megabytes(size: int) -> str:
    return f"{size / 2**20:.0f}"
