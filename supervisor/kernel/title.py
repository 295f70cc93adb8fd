"""What `ps` and `top` show for a process of ours.

Invariant: the title is for people (`holdfast: web g3 w1 ready`); the kernel's short name stays one word. CPython from
3.12 on counts its threads, to warn of a fork, by splitting /proc/self/stat at spaces, and a name with spaces in it
would make it see threads that aren't there.
"""

from __future__ import annotations

import importlib
from importlib.machinery import PathFinder
from typing import Any

NAME = "holdfast"  # what pgrep and pkill find without -f


def _compiled() -> Any:
    """setproctitle's extension without the package around it, which would bring logging: 0.7 MB more for the master."""
    package = PathFinder.find_spec("setproctitle")
    found = package and PathFinder.find_spec("setproctitle._setproctitle", package.submodule_search_locations)
    if not found or found.loader is None or (module := found.loader.create_module(found)) is None:
        return importlib.import_module("setproctitle")  # installed in a way of its own
    found.loader.exec_module(module)
    return module


_setproctitle = _compiled()


def set_title(state: str) -> None:
    """Show `holdfast: STATE`."""
    _setproctitle.setproctitle(f"{NAME}: {state}")
    _setproctitle.setthreadtitle(NAME)


def restore_title(title: str) -> None:
    """Show what was there before."""
    _setproctitle.setproctitle(title)


def current_title() -> str:
    title: str = _setproctitle.getproctitle()
    return title
