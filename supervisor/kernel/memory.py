"""Memory that a process holds without needing it.

Invariant: nothing here changes what any address reads as; at worst a page is read from its file once more.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator

_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def settle() -> None:
    """For a process that has begun and now mostly waits: give back what only the beginning has needed.

    Those are the C library's free memory (malloc_trim(3)), and the pages of programs and libraries touched so far, code
    and constants: importing an app runs through most of its libraries once, and the pages count as the process's own
    for as long as it lives. Each is mapped again when it is next used. Only private mappings of files that nobody may
    write to, and that hold no page of our own, are touched (madvise(2), MADV_DONTNEED; proc(5), smaps).
    """
    if (trim := getattr(_libc, "malloc_trim", None)) is not None:  # musl has none
        trim(0)
    for start, end in list(_untouched_files()):
        _give_back(start, end)


def let_go_of_zeros(start: int, size: int) -> None:
    """Give back the whole pages of our own memory from `start` on that hold only zeros, which is how new ones read.

    No other thread may write there meanwhile.
    """
    page = mmap.PAGESIZE
    zeros = bytes(page)
    for at in range(-(-start // page) * page, (start + size) // page * page, page):
        if ctypes.string_at(at, page) == zeros:
            _give_back(at, at + page)


def _untouched_files() -> Iterator[tuple[int, int]]:
    """Start and end of each read-only mapping of a file without a page that differs from it, as relocations do."""
    span: tuple[int, int] | None = None
    with open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as smaps:
        for line in smaps:
            word, *rest = line.split(maxsplit=5)
            if not word.endswith(":"):  # of a mapping: its span, mode, offset, device, inode and path
                start, _, end = word.partition("-")
                is_file = rest[0] in ("r-xp", "r--p") and len(rest) == 5 and rest[4].startswith("/")
                span = (int(start, 16), int(end, 16)) if is_file else None
            elif word == "Anonymous:" and rest[0] == "0" and span is not None:
                yield span


def _give_back(start: int, end: int) -> None:
    _libc.madvise(start, end - start, mmap.MADV_DONTNEED)  # what it refuses, we go on holding
