"""What is given back is less to hold, and reads as it did."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import subprocess
import sys
from pathlib import Path

from supervisor.kernel.memory import let_go_of_zeros, settle

PAGE = mmap.PAGESIZE


def held(kind: str) -> int:
    """Bytes of `RssAnon` or `RssFile`, proc_pid_status(5)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == kind:
            return int(value.split()[0]) * 1024
    raise AssertionError(kind)


def test_settling_gives_back_the_pages_of_files_and_what_is_run_next_comes_back() -> None:
    hashlib.sha256(b"")  # a library more, run once
    before = held("RssFile")
    settle()
    assert held("RssFile") < 0.8 * before
    assert hashlib.sha256(b"").hexdigest().startswith("e3b0c44298fc1c14")


def test_settling_leaves_alone_a_page_that_differs_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "relocated"
    path.write_bytes(b"f" * 4 * PAGE)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4 * PAGE, mmap.MAP_PRIVATE) as mapping:
        mapping[0:3] = b"our"  # as the dynamic linker writes, before it makes the mapping read-only
        view = ctypes.c_char.from_buffer(mapping)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        start = ctypes.c_void_p(ctypes.addressof(view))
        assert protect(start, ctypes.c_size_t(4 * PAGE), mmap.PROT_READ) == 0
        settle()
        assert mapping[0:4] == b"ourf"
        assert mapping[PAGE : PAGE + 4] == b"ffff"
        assert protect(start, ctypes.c_size_t(4 * PAGE), mmap.PROT_READ | mmap.PROT_WRITE) == 0
        del view


def test_pages_of_zeros_are_given_back_and_the_others_stay() -> None:
    size = 1024 * PAGE
    memory = bytearray(size + 2 * PAGE)
    memory[:] = bytes(len(memory))  # written to, and so held
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[7 * PAGE] = memory[size] = 1
    before = held("RssAnon")
    let_go_of_zeros(address, len(memory))
    assert held("RssAnon") < before - 0.9 * size
    assert (memory[7 * PAGE], memory[size], sum(memory)) == (1, 1, 2)


def test_nothing_outside_what_was_named_is_given_back() -> None:
    """Only whole pages: on a page that it shares with others, zeros stay."""
    memory = bytearray(3 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    into_page = address % PAGE
    let_go_of_zeros(address, PAGE - 1 - into_page if into_page else PAGE - 1)
    memory[:] = b"x" * len(memory)
    let_go_of_zeros(address, len(memory))
    assert bytes(memory) == b"x" * len(memory)


def test_a_fresh_event_loop_gives_back_its_read_buffer_and_reads_all_the_same() -> None:
    code = (
        "import asyncio, socket, uvloop\n"
        "from supervisor.kernel.memory import let_go_of_zeros\n"
        "def held(): return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon'))\n"
        "loop = uvloop.new_event_loop()\n"
        "before = held()\n"
        "let_go_of_zeros(id(loop), loop.__sizeof__())\n"
        "assert held() < before - 200, (before, held())\n"
        "async def talk():\n"
        "    ours, theirs = socket.socketpair()\n"
        "    reader, writer = await asyncio.open_connection(sock=ours)\n"
        "    theirs.setblocking(False)\n"
        "    sent = loop.create_task(loop.sock_sendall(theirs, b'x' * 1_000_000))\n"
        "    got = await reader.readexactly(1_000_000)\n"
        "    await sent\n"
        "    writer.close()\n"
        "    theirs.close()\n"
        "    return got == b'x' * 1_000_000\n"
        "asyncio.set_event_loop(loop)\n"
        "print(loop.run_until_complete(talk()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
