"""What /proc tells about a process: memory, CPU time, threads, descriptors.

Invariant: a process that is gone (ended and unreaped counts as gone where it holds nothing any more) or that may not
be read gives None, never an error. Pids are the caller's word: ask only about a process that isn't reaped yet, or the
answer may be about another one.

/proc is read directly, and not through psutil, because the master samples every worker all the time: one read of
`statm` is a few microseconds, where `psutil.Process` costs fifty and its import several megabytes.

Source: proc(5), in newer manuals proc_pid_statm(5), proc_pid_stat(5), proc_pid_smaps(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

_PAGE = os.sysconf("SC_PAGESIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_LISTENING = "0A"  # TCP_LISTEN in the kernel's include/net/tcp_states.h
_MAX_PROCESSES = 4096  # how many are looked at to tell who holds a port


def rss_bytes(pid: int) -> int | None:
    """Resident memory, pages shared with other processes included."""
    data = _read(f"/proc/{pid}/statm")
    if data is None:
        return None
    return int(data.split(b" ", 2)[1]) * _PAGE or None  # an ended process has no pages


class Footprint(NamedTuple):
    """What a process holds, in bytes: shared pages divided by their sharers (PSS), and not counted at all (USS)."""

    pss: int  # what adds up over a preloaded app's workers
    uss: int  # what would be free if this process alone ended


def footprint(pid: int) -> Footprint | None:
    """The kernel walks all page tables for it, and the process can map nothing new meanwhile: take it seldom."""
    data = _read(f"/proc/{pid}/smaps_rollup")
    if not data:
        return None
    fields = dict(line.split(b":", 1) for line in data.splitlines()[1:])
    try:
        pss, clean, dirty = (int(fields[name].split()[0]) for name in (b"Pss", b"Private_Clean", b"Private_Dirty"))
    except KeyError:  # it has ended meanwhile
        return None
    return Footprint(pss * 1024, (clean + dirty) * 1024)


def cpu_seconds(pid: int) -> float | None:
    """CPU time used so far, user and system, its children's not included."""
    data = _read(f"/proc/{pid}/stat")
    if data is None:
        return None
    # The name is in parentheses and may hold any byte; utime and stime are the 14th and 15th fields.
    fields = data.rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def start_ticks(pid: int) -> int | None:
    """When it was started, in clock ticks since the machine was: with its pid it names one process for ever."""
    data = _read(f"/proc/{pid}/stat")
    if data is None:
        return None
    return int(data.rpartition(b")")[2].split()[19])  # the 22nd field; see `cpu_seconds`


def state(pid: int) -> str | None:
    """What it is doing, in the kernel's words: "R (running)", "T (stopped)", "D (disk sleep)"."""
    data = _read(f"/proc/{pid}/status")
    if data is None:
        return None
    _, _, rest = data.partition(b"\nState:")
    return rest.partition(b"\n")[0].strip().decode("ascii", "replace") or None


def command_line(pid: int) -> list[str] | None:
    """Its arguments; a process that has set a title shows the title as the only one."""
    data = _read(f"/proc/{pid}/cmdline")
    if not data:
        return None
    return [part.decode("utf-8", "replace") for part in data.rstrip(b"\0").split(b"\0")]


def thread_names(pid: int) -> list[str] | None:
    """The kernel's names of its threads, the main one first (at most 15 bytes each)."""
    folder = f"/proc/{pid}/task"
    try:
        tasks = sorted(os.listdir(folder), key=int)
    except OSError:
        return None
    names = [_read(f"{folder}/{task}/comm") for task in tasks]
    return [name.rstrip(b"\n").decode("utf-8", "replace") for name in names if name is not None]


def open_fds(pid: int) -> int | None:
    """How many descriptors it has open."""
    try:
        listed = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    return listed - 1 if pid == os.getpid() else listed  # our own listing holds one


def tcp_listener(port: int) -> tuple[int, str] | None:
    """The pid and name of a process that listens on TCP `port`, as far as we may know: other users' are hidden.

    For an error message, not for a decision: it looks through every process.
    """
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not wanted:
        return None
    for pid in _pids():
        if wanted & set(_links(pid)):
            name = _read(f"/proc/{pid}/comm") or b"?"
            return pid, name.rstrip(b"\n").decode("utf-8", "replace")
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (_read_all(table) or b"").splitlines()[1:]:
            fields = line.decode("ascii").split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()][:_MAX_PROCESSES]


def _links(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    try:
        for entry in os.listdir(folder):
            yield os.readlink(f"{folder}/{entry}")
    except OSError:  # gone, closed meanwhile, or not ours to see
        return


def _read(path: str) -> bytes | None:
    """One read: every file here that matters is shorter than a page, and is made up when it is read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)


def _read_all(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None
