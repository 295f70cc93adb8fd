"""How many descriptors a process may have open, getrlimit(2)."""

from __future__ import annotations

import os
import resource

MOST = 1 << 20
"""As far as the soft limit is raised: the kernel's own default for one process (`fs.nr_open`). Some container runtimes
set hard limits of a billion, and programs that walk all descriptors up to the soft one would never end."""


def raise_descriptor_limit() -> int:
    """Use what the hard limit allows; children inherit it. Returns the soft limit, which is never lowered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def have_room(count: int) -> bool:
    """Whether this process could open so many descriptors more, now (EMFILE, ENFILE; open(2))."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    finally:
        for fd in opened:
            os.close(fd)
    return True
