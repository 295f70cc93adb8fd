"""What a fuzzer's input says besides the bytes for the wire: where they are cut, and what the app does.

Invariant: every input is a plan. The fuzzer need not learn a format, and each byte that it changes changes one thing.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

PLAN = 16  # bytes
CUTS = 6
ACTS = 6


class Plan(NamedTuple):
    """The first bytes of an input; all zeros is the simplest run, and what seeds begin with."""

    flags: int
    setting: int
    cuts: bytes
    acts: bytes  # what the app does with each request, in turns
    room: int  # what the kernel takes before the client reads; 0 is everything
    pace: int

    def has(self, bit: int) -> bool:
        return bool(self.flags >> bit & 1)

    def pieces(self, wire: bytes) -> list[bytes]:
        """The packets in which `wire` comes."""
        if self.cuts[0] == 0xFF:
            return [wire[at : at + 1] for at in range(len(wire))]
        near = self.cuts[0] & 1  # so that cuts in a long input can be found by single bytes, too
        places = sorted({cut if near else cut * len(wire) // 256 for cut in self.cuts if cut} | {0, len(wire)})
        return [piece for a, b in itertools.pairwise(places) if (piece := wire[a:b])]


def split(data: bytes) -> tuple[Plan, bytes]:
    """The plan that an input begins with, and the rest."""
    head = data[:PLAN].ljust(PLAN, b"\0")
    return Plan(head[0], head[1], head[2 : 2 + CUTS], head[8 : 8 + ACTS], head[14], head[15]), data[PLAN:]


def written(*bits: int, setting: int = 0, cuts: bytes = b"", acts: bytes = b"", room: int = 0, pace: int = 0) -> bytes:
    """The bytes of a plan."""
    flags = sum(1 << bit for bit in bits)
    return bytes((flags, setting, *cuts.ljust(CUTS, b"\0"), *acts.ljust(ACTS, b"\0"), room, pace))
