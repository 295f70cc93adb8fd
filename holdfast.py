"""Where the installed commands begin: outside the package, because another `supervisor` may stand in front of it.

PyPI's `supervisor` owns the same import name. In a normal install its files come to lie over ours, which
`supervisor.__main__` finds out; beside an editable install they hide ours altogether, and then only this module is left
to say so.
"""

from __future__ import annotations

import importlib
import sys


def main() -> int:
    """`holdfast`: returns the exit code, or becomes the master."""
    return _enter("holdfast", "main")


def ctl() -> int:
    """`holdfastctl`: returns the exit code."""
    return _enter("holdfastctl", "ctl")


def _enter(program: str, function: str) -> int:
    try:
        commands = importlib.import_module("supervisor.__main__")
    except ModuleNotFoundError as error:
        if error.name not in ("supervisor", "supervisor.__main__"):
            raise
        found = getattr(sys.modules.get("supervisor"), "__file__", None)
        print(
            f"{program}: another package named supervisor ({found}) hides ours: install holdfast in a venv of its own, "
            f"or run pip uninstall supervisor and reinstall holdfast",
            file=sys.stderr,
        )
        return 2
    return int(getattr(commands, function)())
