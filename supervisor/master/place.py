"""Where a release lives: its directory, its interpreter, its user and its secrets, found once, when it is made.

Invariant: a place is absolute and free of symlinks of directories, so that whatever is started for the release later (a
spawner in a dead one's place, a hook) finds the files that its first spawner found, wherever `current` points by then.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys

import msgspec

import supervisor
from supervisor.config.settings import AppSettings
from supervisor.kernel.identity import Identity, find_identity
from supervisor.master.secrets import read_secrets

SPAWNER = "supervisor.spawner.__main__"
CHECK = "supervisor.spawner.check"
HOOK = "supervisor.spawner.hook"

_BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(supervisor.__file__)), "spawner", "bootstrap.py")


class Place(msgspec.Struct, frozen=True):
    """`home` is the working directory; `python` the interpreter, None for the one that runs the master.

    `identity` is who its processes are, None for who the master is; `secrets` what `env_file` and credentials add to
    their environment.
    """

    home: str
    python: str | None = None
    identity: Identity | None = None
    secrets: dict[str, str] = {}

    def __repr__(self) -> str:
        """Without the values of secrets."""
        return f"Place({self.home!r}, {self.python!r}, {self.identity!r}, secrets={list(self.secrets)})"

    def command(self, module: str) -> list[str]:
        """What runs this module of ours in the release's interpreter; arguments may follow.

        An interpreter of its own need not have holdfast installed: `supervisor/spawner/bootstrap.py` finds it, given
        the names of our extension modules and our import path.
        """
        if self.python is None:
            return [sys.executable, "-P", "-m", module]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        return [self.python, _BOOTSTRAP, module, importlib.machinery.EXTENSION_SUFFIXES[0], path]


def find_place(settings: AppSettings, start: str) -> Place:
    """Look it up now, from the directory in which holdfast was started.

    A missing directory or interpreter shows when it is used; a user or a secret that can't be had is a `UserError`.
    """
    home = os.path.realpath(os.path.join(start, settings.chdir or ""))
    python = _interpreter(settings.python, home) if settings.python is not None else None
    return Place(home, python, find_identity(settings.user, settings.group), read_secrets(settings, start))


def _interpreter(python: str, home: str) -> str:
    """A name is looked for in PATH, a path begins at `home`.

    Its last part is left as it is: a venv's `python` is a symlink, and knows its venv by where the link lies.
    """
    if "/" not in python:
        candidates = (os.path.join(folder, python) for folder in os.get_exec_path())
        python = next((path for path in candidates if os.access(path, os.X_OK)), python)
    folder, name = os.path.split(os.path.join(home, python))
    return os.path.join(os.path.realpath(folder), name)
