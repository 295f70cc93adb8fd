"""When a cluster with a range of workers gets one more, and when one less. Pure.

How much of a worker is taken (`taken`, 0 to 1) is the largest of three: its requests in flight in proportion to those
it has room for, how late its event loop is, and the CPU time it uses while it serves. CPU time alone says nothing: a
worker that computes for nobody is not busy. What counts is the mean over the workers, smoothed, because one of them
that is blocked is no reason for another.

Invariants:
- One decision changes the count by one, and the next one waits until that has come true and has been looked at anew;
  only a count outside the range goes straight to its nearest end.
- None is made while anything is in motion: a roll, a worker on its way in. It would be about the motion.
- What makes it grow can't make it shrink again: it grows above `GROW_ABOVE` and shrinks only if without one worker the
  others would still be below `SHRINK_BELOW`. A shrinking that had to be undone all the same doubles the time that the
  next one takes, up to `MOST_PATIENCE` times; one that lasts halves it.
"""

from __future__ import annotations

import math

from msgspec import Struct
from msgspec.structs import replace

GROW_ABOVE = 0.75  # of the workers taken, for `grow_after`
STILL_BUSY = 0.65  # dips down to here don't end a busy time
SHRINK_BELOW = 0.5  # taken with one worker less, for `shrink_after`
STILL_IDLE = 0.6
SMOOTHING = 2.0  # seconds: the time constant of the smoothed load
LATE = 0.05  # seconds of lag at which a worker counts as taken
BRISK = 10.0  # requests a second that show that a worker computes for them, if none is seen in flight just now
MOST_PATIENCE = 16


class Pulse(Struct, frozen=True):
    """Of one ready worker, now."""

    slot: int
    inflight: int
    capacity: int  # requests that it has room for at once
    lag: float  # seconds that its event loop is late, or blocked
    cpu: float  # cores
    rate: float  # requests a second that it has lately begun
    is_saturated: bool = False  # it takes no connection


class Look(Struct, frozen=True):
    """An app, now. `count` workers are wanted, of `least` to `most`; some of them may be stopped by hand."""

    pulses: tuple[Pulse, ...]
    count: int
    least: int
    most: int
    is_settled: bool  # no roll, and every worker that is wanted is ready


class Pace(Struct, frozen=True):
    """How many seconds the workers have to be busy, or idle."""

    grow_after: float
    shrink_after: float


class Scaling(Struct, frozen=True):
    """What is remembered from look to look. Times are monotonic seconds."""

    at: float | None = None  # of the last look
    load: float = 0.0  # smoothed
    busy_since: float | None = None
    idle_since: float | None = None
    shrunk_at: float | None = None  # and not known yet whether that lasts
    patience: int = 1  # `shrink_after` is so many times as long


class Decision(Struct, frozen=True):
    """So many workers from now on, and why: a sentence for the log."""

    count: int
    why: str


def taken(pulse: Pulse) -> float:
    """How much of the worker is taken, 0 to 1."""
    if pulse.is_saturated:
        return 1.0
    is_serving = pulse.inflight > 0 or pulse.rate >= BRISK
    return min(1.0, max(pulse.inflight / pulse.capacity, pulse.lag / LATE, pulse.cpu if is_serving else 0.0))


def step(scaling: Scaling, look: Look, pace: Pace, now: float) -> tuple[Scaling, Decision | None]:
    """Take another look at `now`: what is remembered after it, and what is to be done, if anything."""
    scaling = _smoothed(scaling, look, now)
    if not look.is_settled or not look.pulses:
        return replace(scaling, busy_since=None, idle_since=None), None
    if not look.least <= look.count <= look.most:
        count = min(max(look.count, look.least), look.most)
        return _rested(scaling), Decision(count, f"{look.count} is outside {look.least}..{look.most}")
    scaling = _forgiving(_timed(scaling, len(look.pulses), now), pace, now)
    return _grown(scaling, look, pace, now) or _shrunk(scaling, look, pace, now) or (scaling, None)


def describe(pulses: tuple[Pulse, ...]) -> str:
    """What the workers are busy with, in all."""
    inflight, capacity = sum(pulse.inflight for pulse in pulses), sum(pulse.capacity for pulse in pulses)
    lag, cpu = max(pulse.lag for pulse in pulses), sum(pulse.cpu for pulse in pulses) / len(pulses)
    parts = [f"{inflight} of {capacity} requests in flight", f"loops up to {1e3 * lag:.0f} ms late", f"CPU {cpu:.0%}"]
    saturated = sum(pulse.is_saturated for pulse in pulses)
    return ", ".join(parts + ([f"{saturated} saturated"] if saturated else []))


def _grown(scaling: Scaling, look: Look, pace: Pace, now: float) -> tuple[Scaling, Decision] | None:
    """One more, if they have been busy for long enough, and are."""
    if scaling.busy_since is None or scaling.load < GROW_ABOVE or look.count >= look.most:
        return None
    busy = now - scaling.busy_since
    if busy < pace.grow_after:
        return None
    why = f"busy for {busy:.0f} s: {scaling.load:.0%} taken; {describe(look.pulses)}"
    patience = scaling.patience if scaling.shrunk_at is None else min(MOST_PATIENCE, 2 * scaling.patience)
    return replace(_rested(scaling), patience=patience, shrunk_at=None), Decision(look.count + 1, why)


def _shrunk(scaling: Scaling, look: Look, pace: Pace, now: float) -> tuple[Scaling, Decision] | None:
    """One less, if they have been idle for long enough, and are."""
    without = _without_one(scaling.load, len(look.pulses))
    if scaling.idle_since is None or without >= SHRINK_BELOW or look.count <= look.least:
        return None
    idle = now - scaling.idle_since
    if idle < pace.shrink_after * scaling.patience:
        return None
    why = f"idle for {idle:.0f} s: {scaling.load:.0%} taken, {without:.0%} without one of them"
    return replace(_rested(scaling), shrunk_at=now), Decision(look.count - 1, why)


def _smoothed(scaling: Scaling, look: Look, now: float) -> Scaling:
    """With the mean of what is taken, as an exponential average over time, however far apart the looks are."""
    if not look.pulses:
        return replace(scaling, at=now)
    mean = sum(map(taken, look.pulses)) / len(look.pulses)
    if scaling.at is None:
        return replace(scaling, at=now, load=mean)
    weight = -math.expm1(-(now - scaling.at) / SMOOTHING)
    return replace(scaling, at=now, load=scaling.load + weight * (mean - scaling.load))


def _timed(scaling: Scaling, serving: int, now: float) -> Scaling:
    """With since when it has been busy, and since when idle."""
    load, without = scaling.load, _without_one(scaling.load, serving)
    is_busy = load >= (GROW_ABOVE if scaling.busy_since is None else STILL_BUSY)
    is_idle = without < (SHRINK_BELOW if scaling.idle_since is None else STILL_IDLE)
    return replace(
        scaling,
        busy_since=_since(scaling.busy_since, is_busy, now),
        idle_since=_since(scaling.idle_since, is_idle, now),
    )


def _since(before: float | None, holds: bool, now: float) -> float | None:
    if not holds:
        return None
    return now if before is None else before


def _forgiving(scaling: Scaling, pace: Pace, now: float) -> Scaling:
    """A shrinking that has lasted twice the time it took was right."""
    if scaling.shrunk_at is None or now - scaling.shrunk_at < 2 * pace.shrink_after * scaling.patience:
        return scaling
    return replace(scaling, shrunk_at=None, patience=max(1, scaling.patience // 2))


def _rested(scaling: Scaling) -> Scaling:
    """After a decision everything is looked at anew."""
    return replace(scaling, busy_since=None, idle_since=None)


def _without_one(load: float, serving: int) -> float:
    return load * serving / (serving - 1) if serving > 1 else math.inf
