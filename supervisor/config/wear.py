"""Options about when a worker has used itself up: its memory, its requests, its age."""

from __future__ import annotations

from supervisor.config import values
from supervisor.config.option import Option
from supervisor.config.settings import MemoryShare

LIMITS = "Limits"
MIN_MEMORY = 1024**2  # below this a number was surely meant in another unit

_parse_age = values.seconds()


def parse_max_memory(value: object) -> int | MemoryShare | None:
    """A size of at least a mebibyte, or a share such as `80%`; 0 means no limit (None)."""
    if isinstance(value, str) and value.strip().endswith("%"):
        return MemoryShare(_part(value))
    try:
        size = values.parse_size(value)
    except ValueError:
        raise ValueError(f"a size such as 512M or 2G, or a share such as 80%, not {values.shown(value)}") from None
    if 0 < size < MIN_MEMORY:
        raise ValueError(f"a size of at least 1M, such as 512M or 2G, not {values.shown(value)}")
    return size or None


def parse_max_age(value: object) -> float | None:
    """A time; 0 means no limit (None)."""
    return _parse_age(value) or None


def _part(text: str) -> float:
    try:
        part = float(text.strip()[:-1]) / 100
    except ValueError:
        part = 0.0
    if not 0 < part <= 1:
        raise ValueError(f"a share above 0% and at most 100%, such as 80%, not {values.shown(text)}")
    return part


WEAR: tuple[Option, ...] = (
    Option(
        key="max_memory",
        flags=("--max-memory",),
        section="app",
        group=LIMITS,
        parse=parse_max_memory,
        metavar="SIZE",
        default="none",
        help="a worker whose RSS passes this is replaced, new one first (512M, 2G); 80% = that much of the cgroup's or "
        "machine's memory, divided by the workers",
    ),
    Option(
        key="max_requests",
        flags=("--max-requests",),
        section="app",
        group=LIMITS,
        parse=values.parse_limit,
        metavar="N",
        default="none",
        help="a worker is replaced after N requests, ±10% jitter, new one first",
    ),
    Option(
        key="max_age",
        flags=("--max-age",),
        section="app",
        group=LIMITS,
        parse=parse_max_age,
        metavar="S",
        default="none",
        help="a worker is replaced after so long, ±10% jitter, new one first",
    ),
)
