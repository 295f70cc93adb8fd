"""h11, and what it takes: 1.5 MB of the master's that it has no use for before its first client.

Invariant: importing this module imports none of it. `import_next` lets the master take it in small steps, a few
milliseconds each; whoever uses `h11` sooner gets the rest at once.
"""

from __future__ import annotations

import importlib
import sys

# Each takes the ones before it.
_HEAVY = ("ast", "dis", "linecache", "inspect", "copy", "dataclasses", "http", "h11")


class _Unloaded:
    """Stands for h11: each name is looked up there when it is first used."""

    def __getattr__(self, name: str) -> object:
        found: object = getattr(importlib.import_module("h11"), name)
        self.__dict__[name] = found
        return found


h11 = _Unloaded()


def import_next() -> bool:
    """Import one more of the modules that take long. False when all are there."""
    missing = next((name for name in _HEAVY if name not in sys.modules), None)
    if missing is not None:
        importlib.import_module(missing)
    return missing is not None
