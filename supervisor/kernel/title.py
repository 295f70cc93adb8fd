"""What `ps` and `top` show for a process of ours.

Invariant: the title is for people (`holdfast: web g3 w1 ready`); the kernel's short name stays one word. CPython from
3.12 on counts its threads, to warn of a fork, by splitting /proc/self/stat at spaces, and a name with spaces in it
would make it see threads that aren't there.
"""

from __future__ import annotations

import setproctitle

NAME = "holdfast"  # what pgrep and pkill find without -f


def set_title(state: str) -> None:
    """Show `holdfast: STATE`."""
    setproctitle.setproctitle(f"{NAME}: {state}")
    setproctitle.setthreadtitle(NAME)


def restore_title(title: str) -> None:
    """Show what was there before."""
    setproctitle.setproctitle(title)


def current_title() -> str:
    return setproctitle.getproctitle()
