"""What each turn of a master's loop took, noted inside the master: in time, and in CPU time of its own.

Of a turn's time the kernel may have given most to somebody else. Its CPU time is the master's own doing, on a busy
machine as on a quiet one.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from pathlib import Path

# Run at the start of every Python that finds it. The master's turns go to the file, while there is one.
_PROBE = """
    import os

    def note_turns():
        from supervisor.kernel.reactor import Pace

        told, turned = os.environ["HOLDFAST_TEST_TURNS"], Pace.turned

        def note(self, began, ended, used):
            turned(self, began, ended, used)
            try:
                fd = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            except FileNotFoundError:
                return
            os.write(fd, b"%.6f %.6f\\n" % (ended - began, used))
            os.close(fd)

        Pace.turned = note

    with open("/proc/self/cmdline", "rb") as file:
        if b"supervisor.master" in file.read():
            note_turns()
"""


@dataclass(frozen=True)
class Turn:
    """Seconds: how long it took, and how much of a CPU it used meanwhile."""

    lasted: float
    used: float


class Turns:
    """Those of the master that is started in `environment`, which refers to `folder`."""

    def __init__(self, folder: Path) -> None:
        site = folder / "turns"
        site.mkdir()
        (site / "sitecustomize.py").write_text(textwrap.dedent(_PROBE))
        self._told = site / "told"
        path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = {"PYTHONPATH": path, "HOLDFAST_TEST_TURNS": str(self._told)}

    def begin(self) -> None:
        """Note them from now on."""
        self._told.touch()

    def end(self) -> list[Turn]:
        """Those since `begin`."""
        ended = self._told.rename(self._told.with_suffix(".ended"))
        return [Turn(*map(float, line.split())) for line in ended.read_text().splitlines()]
