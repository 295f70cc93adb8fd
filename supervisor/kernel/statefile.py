"""A small file of our own that is replaced whole, again and again, also when its disk has become full.

Invariants:
- Whoever reads it finds all of one `write`, whenever its writer was killed.
- A spare beside it holds room on the disk for the next `write`, and for `RESERVE` bytes more: the file becomes the
  spare, and the spare the file, so that neither lets go of what it has. (Where the file system copies on write, or has
  no hard links, a full disk is just full.)
"""

from __future__ import annotations

import contextlib
import io
import os

RESERVE = 32 * 1024  # bytes: a roll, with two releases, takes more than what was before


class StateFile:
    """The file at `path`, readable by our own user only; `path`.new is the spare."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._spare = f"{path}.new"
        self._former = f"{path}.old"  # for a moment

    def write(self, data: bytes) -> None:
        """Replace what the file holds. Raises `OSError`, and then it is as it was."""
        with _opened(self._spare) as spare:
            view = memoryview(data)
            while view:
                view = view[spare.write(view) :]
            spare.truncate()
        has_former = self._keep_former()
        os.rename(self._spare, self.path)
        if has_former:
            os.rename(self._former, self._spare)
        with contextlib.suppress(OSError), _opened(self._spare) as spare:
            os.posix_fallocate(spare.fileno(), 0, len(data) + RESERVE)

    def remove(self) -> None:
        """The file is of no use any more."""
        for path in (self.path, self._spare, self._former):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _keep_former(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._former)
        try:
            os.link(self.path, self._former, follow_symlinks=False)
        except OSError:
            return False
        return True


def _opened(path: str) -> io.FileIO:
    """For writing over what there is, without letting go of its room."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb", buffering=0)
