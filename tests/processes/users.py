"""What a cluster needs to run as another user: a Python that anybody may run, and a folder that anybody may enter."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest

NOBODY = pwd.getpwnam("nobody")
_NEEDED = "import supervisor, click, h11, msgspec, rich, setproctitle, uvloop, websockets, zttp"


@functools.cache
def python_for_anybody() -> tuple[str, dict[str, str]]:
    """An interpreter that may be run by any user, and the environment in which it finds holdfast. Skips without one.

    The tests' own lies in somebody's home as often as not; the system's of the same version does as well.
    """
    path = os.pathsep.join([str(Path(__file__).parents[2]), *(entry for entry in sys.path if "site-packages" in entry)])
    version = f"python3.{sys.version_info.minor}"
    system = shutil.which(version, path="/usr/local/bin:/usr/bin")
    for python in filter(None, (sys.executable, system)):
        environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            subprocess.run(
                [python, "-c", _NEEDED], user="nobody", group=NOBODY.pw_gid, env=environment, check=True, cwd="/"
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return python, environment
    pytest.skip(f"neither {sys.executable} nor the system's {version} can be run by other users")


@contextmanager
def open_folder() -> Iterator[Path]:
    """A new folder that belongs to us and that everybody may enter, unlike those that pytest makes."""
    folder = Path(mkdtemp(prefix="holdfast-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
