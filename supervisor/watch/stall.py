"""Whether a worker is blocked: its event loop does not turn, or every one of its threads is stuck. Pure.

Invariants:
- A block is told while it lasts, once an episode; the episode's end is told once. Blocks that follow one another within
  `CALM` seconds are one episode, so that an app that blocks with every request does not flood the log.
- Time in which nobody looked counts for nobody: a master that was stopped, starved or suspended together with its
  workers finds old heartbeats, and blames no one for them.
"""

from __future__ import annotations

import math

from msgspec import Struct
from msgspec.structs import replace

BEAT = 0.1  # seconds from one heartbeat of a worker to the next
CALM = 1.0  # seconds without a block that end an episode
LONGEST_EPISODE = 60.0  # seconds after which the next block is told anew, however close it follows
ASK_AGAIN = 1.0  # seconds from one `TimedOut` to the next: the kill may have been refused


class Limits(Struct, frozen=True):
    """`stall_warn` and `stall_timeout`, in seconds; `math.inf` is never."""

    warn: float
    timeout: float

    @property
    def shortest(self) -> float:
        """The one that comes first."""
        return min(self.warn, self.timeout)

    @property
    def look_every(self) -> float:
        """Seconds from one look to the next that see a block in time, and cost little."""
        return min(1.0, max(0.02, self.shortest / 4))


class Sample(Struct, frozen=True):
    """What a worker's row on the board says, in monotonic seconds. 0: not, or not any more."""

    beat: float  # its last heartbeat: when its loop turned
    stuck_since: float = 0.0  # since when all its threads are at the same requests


class Began(Struct, frozen=True):
    """An episode has begun: the loop has been blocked for so many seconds, and still is."""

    seconds: float


class Ended(Struct, frozen=True):
    """An episode is over: blocked so many times, in all and at the longest for so many seconds."""

    times: int
    seconds: float
    longest: float


class TimedOut(Struct, frozen=True):
    """Past `timeout`, and still blocked. Told again every `ASK_AGAIN` seconds."""

    seconds: float
    is_loop: bool  # else its threads


Verdict = Began | Ended | TimedOut


class Episode(Struct, frozen=True):
    """Blocks that belong together. `blocked_since` is None between two of them."""

    began: float
    blocked_since: float | None
    busy_at: float  # when it was last not calm
    times: int = 0
    seconds: float = 0.0
    longest: float = 0.0


class Watched(Struct, frozen=True):
    """One worker's state. `blind`: seconds that nobody looked since the heartbeat, or the threads, last changed."""

    beat: float = 0.0
    blind: float = 0.0
    stuck_since: float = 0.0
    stuck_blind: float = 0.0
    episode: Episode | None = None
    timed_out: float = -math.inf

    @property
    def is_blocked(self) -> bool:
        """Its loop is blocked, and that was told."""
        return self.episode is not None and self.episode.blocked_since is not None


def is_calm(watched: Watched, sample: Sample, limits: Limits, now: float, passed: float) -> bool:
    """Whether nothing is to be seen that `step` would have to know of: so it is, nearly always."""
    return (
        watched.episode is None
        and not sample.stuck_since
        and now - sample.beat - BEAT < limits.shortest / 2
        and passed <= limits.shortest / 2
    )


def step(watched: Watched, sample: Sample, limits: Limits, now: float, passed: float) -> tuple[Watched, list[Verdict]]:
    """What there is to tell of one worker at monotonic time `now`, `passed` seconds after somebody last looked."""
    gap = max(0.0, passed - limits.shortest / 2)
    turned = sample.beat != watched.beat
    blind = gap if turned else watched.blind + gap
    moved = sample.stuck_since != watched.stuck_since
    stuck_blind = gap if moved else watched.stuck_blind + gap
    blocked = max(0.0, now - sample.beat - BEAT - blind) if sample.beat else 0.0
    stuck = max(0.0, now - sample.stuck_since - stuck_blind) if sample.stuck_since else 0.0
    episode, verdicts = _episode(watched.episode, sample.beat, limits.warn, blocked, now, turned=turned)
    timed_out = watched.timed_out
    if max(blocked, stuck) >= limits.timeout and now - timed_out >= ASK_AGAIN:
        timed_out = now
        verdicts.append(TimedOut(max(blocked, stuck), is_loop=blocked >= limits.timeout))
    return Watched(sample.beat, blind, sample.stuck_since, stuck_blind, episode, timed_out), verdicts


def _episode(
    episode: Episode | None, beat: float, warn: float, blocked: float, now: float, *, turned: bool
) -> tuple[Episode | None, list[Verdict]]:
    """Begin, go on with or end an episode, at a look that finds the loop `blocked` for so many seconds."""
    verdicts: list[Verdict] = []
    if episode is not None and episode.blocked_since is not None and turned:
        episode = _block_over(episode, episode.blocked_since, beat or now)
    if blocked >= warn:
        if episode is None:
            episode = Episode(now - blocked, now - blocked, now)
            verdicts.append(Began(blocked))
        elif episode.blocked_since is None:
            episode = replace(episode, blocked_since=now - blocked)
    if episode is None:
        return None, verdicts
    if blocked >= warn / 2:
        episode = replace(episode, busy_at=now)
    is_calm = now - episode.busy_at >= CALM or now - episode.began >= LONGEST_EPISODE
    if episode.blocked_since is None and is_calm:
        verdicts.append(Ended(episode.times, episode.seconds, episode.longest))
        return None, verdicts
    return episode, verdicts


def _block_over(episode: Episode, since: float, until: float) -> Episode:
    seconds = max(0.0, until - since)
    return replace(
        episode,
        blocked_since=None,
        busy_at=max(episode.busy_at, until),
        times=episode.times + 1,
        seconds=episode.seconds + seconds,
        longest=max(episode.longest, seconds),
    )
