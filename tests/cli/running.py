"""The commands as people run them: real subprocesses, their output and their exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def holdfast(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `holdfast` in `cwd` and wait for its end."""
    return python("-m", "supervisor", *arguments, cwd=cwd, **environment)


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the interpreter of these tests in `cwd`, with nothing to read, and wait for its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
