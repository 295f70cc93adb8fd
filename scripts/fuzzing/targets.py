"""What can be fuzzed. A target is a module with `check`, which raises when something is wrong, `seeds` and `TOKENS`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Protocol, cast


class Target(Protocol):
    """A module of this package."""

    TOKENS: tuple[bytes, ...]

    def check(self, data: bytes, /) -> None:
        """Run one input. Raises whatever was found."""

    def seeds(self) -> Iterable[bytes]:
        """Inputs to begin with."""


SHARES = {"http1": 6, "websocket": 2, "proxy": 1, "forwarded": 1}
"""Every target, and how much of the time it gets when all are run."""

INSTRUMENTED = ["supervisor.serve", "tests.serve.reading", "fuzzing"]
"""Packages whose branches the fuzzer sees. Of the second reading's, too: the parser of heads is no Python."""


def load(name: str) -> Target:
    return cast(Target, import_module(f"fuzzing.{name}"))
