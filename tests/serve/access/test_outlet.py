"""Writing that never waits: into files, pipes, sockets and terminals, their own or another user's."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
from pathlib import Path

import pytest

from supervisor.serve.access.outlet import Outlet

LINE = b"x" * 99 + b"\n"


def written(outlet: Outlet, most: int = 10_000_000) -> int:
    """Bytes that go before it would wait; fails when it never would."""
    size = 0
    try:
        while size < most:
            size += outlet.write(LINE)
    except BlockingIOError:
        return size
    raise AssertionError(f"{size} bytes went, and there was always room for more")


def no_more(*_: object) -> int:
    raise PermissionError(13, "Permission denied")


@pytest.fixture(params=["own", "another's"])
def whose(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether a pipe or terminal can be opened once more."""
    if request.param != "own":
        monkeypatch.setattr(os, "open", no_more)
    return str(request.param)


def test_a_pipe_that_nobody_reads_takes_what_it_holds_and_no_more(whose: str) -> None:
    reader, writer = os.pipe()
    other = os.dup(writer)
    outlet = Outlet(writer)
    assert outlet.is_pipe
    size = written(outlet)
    assert size >= (60_000 if whose == "own" else 16 * len(LINE))  # what is spliced in takes one of 16 places
    assert not fcntl.fcntl(other, fcntl.F_GETFL) & os.O_NONBLOCK
    got = b""
    while len(got) < size:
        got += os.read(reader, 65536)
    assert got == LINE * (size // 100)
    assert outlet.write(b"on it goes\n") == 11
    assert os.read(reader, 100) == b"on it goes\n"
    outlet.close()
    os.close(other)
    os.close(reader)


def test_a_pipe_whose_reader_has_gone_is_an_error_and_leaves_nothing_behind(whose: str) -> None:
    reader, writer = os.pipe()
    outlet = Outlet(writer)
    os.close(reader)
    for _ in range(3):
        with pytest.raises(BrokenPipeError):
            outlet.write(LINE)
    outlet.close()


def test_lines_of_many_outlets_of_one_pipe_never_mix(whose: str) -> None:
    reader, writer = os.pipe()
    outlets = [Outlet(os.dup(writer)) for _ in range(3)]
    lines = [bytes([65 + number]) * (select.PIPE_BUF - 1) + b"\n" for number in range(3)]
    sent = 0
    for _ in range(10):
        for outlet, line in zip(outlets, lines, strict=True):
            try:
                assert outlet.write(line) == len(line)
                sent += 1
            except BlockingIOError:
                os.read(reader, select.PIPE_BUF)
                sent -= 1
    got = b"".join(os.read(reader, select.PIPE_BUF) for _ in range(sent))
    assert set(got.splitlines(keepends=True)) <= set(lines)
    for outlet in outlets:
        outlet.close()
    os.close(writer)
    os.close(reader)


def test_a_socket_that_nobody_reads_takes_what_it_holds() -> None:
    ours, theirs = socket.socketpair()
    outlet = Outlet(theirs.detach())
    assert not outlet.is_pipe
    size = written(outlet)
    assert len(ours.recv(size, socket.MSG_WAITALL)) == size
    outlet.close()
    assert ours.recv(1) == b""
    ours.close()


def test_a_terminal_that_nobody_reads_takes_what_it_holds() -> None:
    ours, theirs = pty.openpty()
    outlet = Outlet(theirs)
    assert not outlet.is_pipe
    assert written(outlet) > 1000
    outlet.close()
    os.close(ours)


def test_a_file_takes_all(tmp_path: Path, whose: str) -> None:
    file = (tmp_path / "log").open("wb", buffering=0)
    outlet = Outlet(os.dup(file.fileno()))
    for _ in range(1000):
        assert outlet.write(LINE) == 100
    outlet.close()
    file.close()
    assert (tmp_path / "log").read_bytes() == LINE * 1000


def test_nothing_stays_open(whose: str) -> None:
    before = set(os.listdir("/proc/self/fd"))
    reader, writer = os.pipe()
    Outlet(writer).close()
    os.close(reader)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_terminal_of_another_user_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setattr(os, "open", no_more)
    outlet = Outlet(theirs)
    assert outlet.write(LINE) == 100
    assert os.read(ours, 200) == LINE[:-1] + b"\r\n"
    outlet.close()
    os.close(ours)
