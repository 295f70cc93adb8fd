"""How many workers an app has: a number, as many as there are CPUs, or a range to scale in.

Invariant: a range has two different ends; `4..4` is the number.
"""

from __future__ import annotations

import re

from supervisor.config.settings import Span
from supervisor.config.values import MAX_WORKERS, shown, whole

_SPAN = re.compile(r"([0-9]{1,16})\.\.([0-9]{1,16})", re.ASCII)


def parse_workers(value: object) -> int | Span | None:
    """`auto` (None: as many as usable CPUs), the number of processes, or `2..8`."""
    if value == "auto":
        return None
    match = _SPAN.fullmatch(value) if isinstance(value, str) else None
    ends = [int(match[1]), int(match[2])] if match is not None else [whole(value)]
    first, last = ends[0], ends[-1]
    if first is None or last is None or not 1 <= first <= last <= MAX_WORKERS:
        raise ValueError(f"auto, 1 to {MAX_WORKERS}, or a range such as 2..8, not {shown(value)}")
    return first if first == last else Span(first, last)
