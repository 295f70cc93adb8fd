"""Which instance holdfastctl means when nobody said it: `$HOLDFAST_CONTROL`, else the only one of this user's.

Invariant: it never guesses between two. A socket counts when a master answers on it; stale files don't.
"""

from __future__ import annotations

import os

from supervisor.control.client import ControlClient
from supervisor.errors import NoMasterError, UsageError, UserError
from supervisor.kernel.instance import control_paths, runtime_dir

PROBE_TIMEOUT = 2.0  # seconds an instance has to say who it is


def find_socket() -> str:
    """The control socket to use. Raises `NoMasterError` when there is none, `UsageError` when there are several."""
    if given := os.environ.get("HOLDFAST_CONTROL"):
        return given
    live = [(path, pid) for path in control_paths() if (pid := _master(path))]
    if not live:
        raise NoMasterError(
            f"no holdfast of this user is running (nothing answers in {runtime_dir()}); "
            "start one with `holdfast run APP`, or name its control socket with -s"
        )
    if len(live) > 1:
        choices = ", ".join(f"`-s {path}` (pid {pid})" for path, pid in live)
        raise UsageError(f"{len(live)} instances are running; say which one: {choices}")
    return live[0][0]


def _master(path: str) -> int:
    """The pid of the master that answers at `path`; 0 when none does."""
    try:
        return ControlClient(path, timeout=PROBE_TIMEOUT).version().pid
    except UserError:
        return 0
