"""Memory that a process holds without needing it.

Invariant: nothing here changes what any address reads as; at worst a page is read from its file once more.
"""

from __future__ import annotations

import mmap


def let_go_of_code() -> None:
    """Unmap the pages of program code touched so far; each is mapped again when it is next run.

    For a process that has done its work and now mostly waits: importing an app runs through most of its libraries'
    code once, and those pages count as the process's own for as long as it lives. Only private, executable, unwritable
    mappings of files are touched: they hold no page that differs from the file (madvise(2), MADV_DONTNEED; proc(5)).
    """
    import ctypes  # only where it is needed: it costs half a megabyte

    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    with open("/proc/self/maps") as maps:
        for line in list(maps):  # the calls below change the very list
            span, mode, _offset, _device, _inode, *path = line.split(maxsplit=5)
            if mode == "r-xp" and path and path[0].startswith("/"):
                start, end = (int(part, 16) for part in span.split("-"))
                libc.madvise(start, end - start, mmap.MADV_DONTNEED)
