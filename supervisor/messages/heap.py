"""What a worker holds, as `holdfastctl heap` shows it. Data only.

Invariant: with every text cut to `MAX_TEXT` characters and every list to its length below, a `Heap` fits into one
message of a channel.
"""

from __future__ import annotations

import msgspec

MAX_TEXT = 160
MAX_ALLOCATIONS = 25
MAX_KINDS = 30
MAX_CONTAINERS = 15


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """Memory allocated at one place while it was watched, and not freed by the end.

    The place is the app's own line, where one is near; `by` is the line it has called that allocates, if another.
    """

    place: str  # file:line
    source: str = ""
    by: str = ""
    bytes: int
    count: int


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A type, with how many objects of it the garbage collector knows, and how many more than at the beginning."""

    name: str
    count: int
    grown: int = 0


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A list, dict or the like. `name` is how it is reached from a module, if that was found; `bytes` its own."""

    kind: str
    length: int
    grown: int = 0  # by so many entries since the beginning
    bytes: int
    name: str = ""
    holds: str = ""  # the commonest type of what is first in it


class Heap(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds` is how long allocations were traced, 0 when they were not; `note` says what differs from what was
    asked. `traced_bytes` and `traced_count` are of all places together."""

    seconds: float
    note: str = ""
    traced_bytes: int = 0
    traced_count: int = 0
    allocations: tuple[Allocation, ...] = ()
    objects: int = 0
    kinds: tuple[Kind, ...] = ()
    containers: tuple[Container, ...] = ()
    longest_ms: float = 0.0  # that the worker's event loop was kept from turning by the survey itself
