"""The stack that a process's main thread handles signals on.

Invariant: it has room for one frame of every signal there is, on top of each other. The kernel pushes the frames of all
signals that wait before the first handler runs, each with all registers (3 KB with AVX-512), and Python's handlers use
this stack as soon as there is one. faulthandler makes one for two or three: with it, five signals at once end a process
by SIGSEGV.

Sources: sigaltstack(2), signal(7), getauxval(3) (AT_MINSIGSTKSZ), CPython's Modules/faulthandler.c.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os

SIZE = 256 * 1024  # bytes: 64 signals of 4 KB; a page that no frame has touched costs nothing


class _Stack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


_libc = ctypes.CDLL(None, use_errno=True)
_memory: list[mmap.mmap] = []  # held for as long as the process lives


def widen_signal_stack() -> None:
    """Enable faulthandler, for stderr, and handle signals on a stack of `SIZE` from now on, also in forked children.

    Raises `OSError`. Once only: faulthandler sets its own stack when it is first enabled, and never again.
    """
    faulthandler.enable(2)
    # Private: a fork must copy it, or the processes would handle their signals on one and the same stack.
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    stack = _Stack(start, 0, SIZE)
    if _libc.sigaltstack(ctypes.byref(stack), None) != 0:
        raise OSError(ctypes.get_errno(), f"sigaltstack: {os.strerror(ctypes.get_errno())}")
    _memory.append(memory)
