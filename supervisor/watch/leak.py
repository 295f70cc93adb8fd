"""Whether a worker's memory climbs steadily: a leak, told long before any limit is reached. Pure.

Memory is looked at on three scales, of 2, 16 and 64 minutes, as 30 points each. A point is the *least* of its share of
samples: what a request holds for a moment only adds, so the least is nearest to what stays. A scale's points are a
steady climb when

- each fifth of them lies above the one before, by a good part of what an even climb would have it: no step, no spike;
- the later half climbs nearly as much as the earlier: no warm-up, no cache that fills and is full;
- its middle is above all that was there before, on this scale and the longer ones, which is forgotten slowly: no tooth
  of a sawtooth but the first;
- the climb is well above the noise around its line, whose slope is the median of the slopes of all pairs of points
  (Theil, Indagationes Mathematicae 12 (1950), 85-91, 173-177; Sen, JASA 63 (1968), 1379-1389), so that up to 29 % of
  the points may be anything without bending it;
- it is near: 2 minutes are believed only as far as 10 minutes ahead, 16 minutes 5 hours, and neither when the climb
  would end below the limit if it went on slowing down as it does. The longest scale is believed at any distance.

Invariants: the state is some hundred numbers, however long a worker lives. A climb is told once, and again when it has
become three times as steep; only when the longest scale has seen it end may another one begin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

from msgspec import Struct

POINTS = 30  # of a window
FIFTH = POINTS // 5
WARM_UP = 60.0  # seconds of a worker's life in which nobody looks
LEAST_CLIMB = 4 * 2**20  # bytes within a window; less is not worth a word, on the longest scale 4 MB an hour
EVEN = 0.25  # of an even climb's rise is what each fifth has to rise by at least
STRAIGHT = 0.7  # of the earlier half's rise is what the later half has to rise by at least
ABOVE_NOISE = 6.0  # times the median distance from the line
MUCH_WORSE = 3.0
OVER = 0.25  # of the slope that was told: below it the climb has ended
FORGET = 10 * POINTS  # points after which a former height counts for about a third


class Scale(Struct, frozen=True):
    """`width` is seconds a point; `reach` how many windows ahead the climb is believed."""

    width: float
    reach: float

    @property
    def seconds(self) -> float:
        return self.width * POINTS


SCALES = (Scale(4.0, 5.0), Scale(32.0, 20.0), Scale(128.0, math.inf))


class Window(Struct, frozen=True):
    """The newest points of one scale. `least` is of the point under way, which ends at `ends`."""

    points: tuple[int, ...] = ()
    least: int = 0
    ends: float = 0.0
    height: float = 0.0  # that former points have reached


class Climb(Struct, frozen=True):
    """A verdict: a worker that holds `rss_bytes` gains `bytes_per_second`, and so comes to `limit`, in bytes."""

    rss_bytes: int
    bytes_per_second: float
    limit: int

    @property
    def mb_per_hour(self) -> float:
        return self.bytes_per_second * 3600 / 2**20

    @property
    def seconds_to_limit(self) -> float:
        return max(0.0, (self.limit - self.rss_bytes) / self.bytes_per_second)


class Trend(Struct, frozen=True):
    """All that is remembered of one worker. `told` is the slope that was last told, in bytes a second; 0: none."""

    windows: tuple[Window, ...] = (Window(),) * len(SCALES)
    told: float = 0.0
    told_at: float = 0.0


def step(trend: Trend, rss_bytes: int, age: float, limit: int, now: float) -> tuple[Trend, Climb | None]:
    """Take in a sample, at monotonic time `now`, of a worker that is `age` seconds old and may hold `limit` bytes."""
    if age < WARM_UP:
        return trend, None
    windows = tuple(
        _add(window, rss_bytes, scale.width, now) for window, scale in zip(trend.windows, SCALES, strict=True)
    )
    told, told_at, climb = trend.told, trend.told_at, None
    for number, (window, scale) in enumerate(zip(windows, SCALES, strict=True)):
        if window.points is trend.windows[number].points or len(window.points) < POINTS:
            continue
        slope = _slope(window, scale, rss_bytes, limit)
        if slope > 0 and _middle(window.points) < _former(windows[number:], scale):
            slope = 0.0
        if slope > told * MUCH_WORSE:
            told, told_at, climb = slope, now, Climb(rss_bytes, slope, limit)
        elif scale is SCALES[-1] and not slope and now - told_at >= scale.seconds:
            told = told if _rise(window.points) > told * OVER * scale.seconds else 0.0
    return Trend(windows, told, told_at), climb


def _add(window: Window, rss_bytes: int, width: float, now: float) -> Window:
    if now < window.ends:
        if rss_bytes >= window.least:
            return window
        return Window(window.points, rss_bytes, window.ends, window.height)
    if now >= window.ends + width:  # the first sample, or nobody has looked for too long to go on
        return Window((), rss_bytes, now + width, window.height)
    points, height = (*window.points, window.least), window.height
    if len(points) > POINTS:
        height = max(points[0], height - (height - points[-1]) / FORGET)
        points = points[1:]
    return Window(points, rss_bytes, window.ends + width, height)


def _slope(window: Window, scale: Scale, rss_bytes: int, limit: int) -> float:
    """Bytes a second that these points climb by steadily; 0 when they don't."""
    points = window.points
    heights = [median(points[at : at + FIFTH]) for at in range(0, POINTS, FIFTH)]
    rise = heights[-1] - heights[0]
    if rise < LEAST_CLIMB * 4 / 5:
        return 0.0
    early, late = heights[2] - heights[0], heights[4] - heights[2]
    is_even = all(after - before >= EVEN * rise / 4 for before, after in pairwise(heights))
    if not is_even or late < STRAIGHT * early:
        return 0.0
    each = theil_sen(points)
    line = [median(points) + each * (number - (POINTS - 1) / 2) for number in range(POINTS)]
    noise = median(abs(point - level) for point, level in zip(points, line, strict=True))
    slope = each / scale.width
    if each * POINTS < ABOVE_NOISE * noise or slope <= 0:
        return 0.0
    if scale.reach < math.inf:
        is_far = (limit - rss_bytes) / slope > scale.reach * scale.seconds
        if is_far or points[-1] + _to_come(early, late) < limit:
            return 0.0
    return slope


def _middle(points: tuple[int, ...]) -> float:
    return median(points[2 * FIFTH : 3 * FIFTH])


def _former(windows: tuple[Window, ...], scale: Scale) -> float:
    """The height that was reached before the points of the first of these windows, which is of `scale`."""
    former = [window.height for window in windows]
    for longer, window in zip(SCALES[-len(windows) + 1 :], windows[1:], strict=False):
        former += window.points[: -math.ceil(scale.seconds / longer.width) - 1]
    return max(former)


def _rise(points: tuple[int, ...]) -> float:
    return median(points[-FIFTH:]) - median(points[:FIFTH])


def _to_come(early: float, late: float) -> float:
    """What is still to come when every half of a window adds less than the one before, in the same proportion."""
    return late * late / (early - late) if late < early else math.inf


def theil_sen(points: tuple[int, ...]) -> float:
    """The median of the slopes of all pairs, a step of one point apart counting as 1."""
    count = len(points)
    return median((points[b] - points[a]) / (b - a) for a in range(count) for b in range(a + 1, count))


def median(values: Iterable[float]) -> float:
    """The middle one, or the mean of the two in the middle. (`statistics` has it, and costs the master a megabyte.)"""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
