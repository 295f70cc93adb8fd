from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from supervisor.kernel import procfs
from tests.kernel.conftest import in_python, wait_for

GROWING = """
import sys
print("small", flush=True)
sys.stdin.readline()
block = bytearray(64 << 20)
block[::4096] = b"x" * len(block[::4096])
print("big", flush=True)
sys.stdin.readline()
"""

BADLY_NAMED = """
import json, os, time
from supervisor.kernel import procfs
with open("/proc/self/comm", "w") as file:
    file.write("a) S 1 (9 9 9")
started = time.process_time()
while time.process_time() - started < 0.1:
    pass
print(json.dumps([procfs.cpu_seconds(os.getpid()), time.process_time()]))
"""

FUNCTIONS = [
    procfs.rss_bytes,
    procfs.footprint,
    procfs.cpu_seconds,
    procfs.command_line,
    procfs.thread_names,
    procfs.open_fds,
]


@pytest.fixture
def gone() -> int:
    """The pid of a process that has been reaped."""
    with subprocess.Popen(["true"]) as done:
        done.wait()
    return done.pid


@pytest.fixture
def zombie() -> Iterator[int]:
    """The pid of a process that has ended and is not reaped."""
    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield pid
    os.waitpid(pid, 0)


def sizes(pid: int) -> tuple[int, int, int]:
    rss, footprint = procfs.rss_bytes(pid), procfs.footprint(pid)
    assert rss is not None
    assert footprint is not None
    return rss, footprint.pss, footprint.uss


def test_memory_grows_with_what_the_process_touches() -> None:
    command = [sys.executable, "-c", GROWING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        small = sizes(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        big = sizes(process.pid)
        process.send_signal(signal.SIGKILL)
    for before, after in zip(small, big, strict=True):
        assert 60 << 20 < after - before < 80 << 20
    rss, pss, uss = small
    assert 0 < uss <= pss <= rss


def test_rss_is_what_the_kernel_calls_vm_rss() -> None:
    with open("/proc/self/status") as file:
        told = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))
    measured = procfs.rss_bytes(os.getpid())
    assert measured is not None
    assert abs(measured - told) < 8 << 20


def test_reading_rss_takes_microseconds() -> None:
    pid, rounds = os.getpid(), 1000
    started = time.process_time()
    for _ in range(rounds):
        procfs.rss_bytes(pid)
    assert (time.process_time() - started) / rounds < 200e-6


def test_cpu_seconds_are_counted_whatever_the_process_is_called() -> None:
    told, measured = in_python(BADLY_NAMED)
    assert measured >= 0.1
    assert abs(told - measured) < 0.1


def test_threads_are_listed_by_name() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    before = procfs.thread_names(os.getpid())
    thread.start()
    during = procfs.thread_names(os.getpid())
    release.set()
    thread.join()
    assert before is not None
    assert during is not None
    assert len(during) == len(before) + 1
    with open(f"/proc/self/task/{os.getpid()}/comm") as file:
        assert during[0] == file.read().strip()


def test_open_descriptors_are_counted_without_the_counting_one() -> None:
    before = procfs.open_fds(os.getpid())
    assert before is not None
    fd = os.open(os.devnull, os.O_RDONLY)
    assert procfs.open_fds(os.getpid()) == before + 1
    os.close(fd)
    assert procfs.open_fds(os.getpid()) == before


def test_another_processes_descriptors_are_counted() -> None:
    with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as process:
        wait_for(lambda: procfs.command_line(process.pid) == ["sleep", "60"])
        assert procfs.open_fds(process.pid) == 3
        process.kill()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_process_that_is_gone_is_none(function, gone: int) -> None:  # type: ignore[no-untyped-def]
    assert function(gone) is None


def test_a_zombie_has_no_memory_and_no_arguments_but_its_cpu_time(zombie: int) -> None:
    assert procfs.rss_bytes(zombie) is None
    assert procfs.footprint(zombie) is None
    assert procfs.command_line(zombie) is None
    assert procfs.cpu_seconds(zombie) is not None


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_who_listens_on_a_port_is_found(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as server:
        found = procfs.tcp_listener(server.getsockname()[1])
    with open("/proc/self/comm") as file:
        assert found == (os.getpid(), file.read().strip())


def test_a_port_on_which_nobody_listens_has_no_owner() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert procfs.tcp_listener(unused.getsockname()[1]) is None
