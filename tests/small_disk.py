"""A disk that can be filled: a small tmpfs."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Have `folder`, which is made, be a disk of so many bytes meanwhile. Raises `OSError` where that may not be."""
    folder.mkdir()
    options = f"size={size},mode=0700"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise OSError(errno.EPERM, f"no disk can be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """The disk on which this lies has no byte left meanwhile."""
    ballast = folder / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert not os.statvfs(folder).f_bavail
        yield
    finally:
        ballast.unlink()
