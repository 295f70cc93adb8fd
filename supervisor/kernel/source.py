"""The text of lines of source, read for a stack.

Invariant: reading waits for nobody and has a bound: regular files only, of a few megabytes, and not many of them. A
frame may name any path at all.
"""

from __future__ import annotations

import os
import stat

MAX_FILE = 2 * 1024 * 1024  # bytes
MAX_FILES = 64
MAX_LINE = 160  # characters


class Sources:
    """Reads for one set of stacks, each file once. What was changed since it was imported can't be told."""

    def __init__(self) -> None:
        self._files: dict[str, list[bytes]] = {}

    def line(self, path: str, number: int) -> str:
        """The text of a line, counted from 1, without its indentation; empty when it can't be had."""
        if path not in self._files:
            if len(self._files) == MAX_FILES:
                return ""
            self._files[path] = _lines(path)
        lines = self._files[path]
        if not 0 < number <= len(lines):
            return ""
        text = lines[number - 1].decode("utf-8", "replace").strip()
        return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 2]}.."


def _lines(path: str) -> list[bytes]:
    if not path.startswith("/"):
        return []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return []
    try:
        about = os.fstat(fd)
        # What /proc makes up as it is read has no size, and some of it waits.
        if not stat.S_ISREG(about.st_mode) or not 0 < about.st_size <= MAX_FILE:
            return []
        return os.read(fd, MAX_FILE).splitlines()
    except OSError:
        return []
    finally:
        os.close(fd)
