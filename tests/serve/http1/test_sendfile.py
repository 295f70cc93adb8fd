"""Files through real sockets, by the kernel and by copying."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from supervisor.serve.http1.outgoing import Outgoing
from supervisor.serve.http1.sendfile import PIECE, FilePart
from tests.serve.harness import read_all

CONTENT = os.urandom(1 << 16) * 80  # 5 MiB, more than a socket's buffers take at once


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(autouse=True, scope="module")
def _first_loop() -> None:
    """What a process's first loop and thread open stays open."""

    async def nothing() -> None:
        await asyncio.to_thread(int)

    uvloop.run(nothing())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Sending(Outgoing):
    """A connection that writes a head and a file, and closes when both are out."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, contextvars.copy_context())
        self.lost = asyncio.Event()
        self.failures: list[str] = []
        self.done = False

    def resume_writing(self) -> None:
        if self.file is not None:
            self.file.go_on()
            return
        super().resume_writing()
        self.done = True
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop_file()
        self.lost.set()

    def failed(self, why: str) -> None:
        self.failures.append(why)
        self.transport.abort()


def send(
    part: FilePart, read: Callable[[socket.socket], bytes], check: Callable[[Sending], None] = lambda _: None
) -> tuple[Sending, bytes]:
    """Send `part` behind a head to a client that does `read` in a thread; `check` is called once it is on its way."""

    async def main() -> tuple[Sending, bytes]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            theirs.settimeout(10)
            _, out = await loop.connect_accepted_socket(lambda: Sending(loop), ours)
            reading = asyncio.create_task(asyncio.to_thread(read, theirs))
            out.stream(b"head ")
            out.send_file(part, out.failed)
            check(out)
            await asyncio.wait_for(out.lost.wait(), 10)
            return out, await reading

    return uvloop.run(main())


@pytest.fixture(params=["kernel", "copies", "no descriptor"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How files go out: by sendfile, or not, or not to the end since the socket can't be duplicated."""
    way: str = request.param

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "refused")

    if way == "copies":
        monkeypatch.setattr(os, "sendfile", refuse)
    elif way == "no descriptor":
        real = os.dup
        first: list[int] = []

        def dup(fd: int) -> int:
            if first:
                raise OSError(errno.EMFILE, "refused")
            first.append(fd)
            return real(fd)

        monkeypatch.setattr(os, "dup", dup)
    return way


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("start", "end"), [(0, len(CONTENT)), (5, 3_000_007), (7, 1_000), (9, 9)])
def test_the_part_asked_for_arrives_behind_what_was_written(path: Path, start: int, end: int) -> None:
    before = descriptors()
    with path.open("rb") as file:
        part = FilePart.rest(file.fileno(), start)
    part.size = end - start
    out, got = send(part, read_all)
    assert got == b"head " + CONTENT[start:end]
    assert out.done
    assert not out.failures
    assert descriptors() == before


def test_a_slow_client_is_waited_for_and_seen_to_take(path: Path) -> None:
    paused: list[bool] = []
    taken: list[bool] = []
    go = threading.Event()

    def read(sock: socket.socket) -> bytes:
        assert go.wait(10)
        return read_all(sock)

    def check(out: Sending) -> None:
        paused.append(out.write_paused)
        taken.append(out.is_taken())  # what went into the socket's buffer at once
        taken.append(out.is_taken())
        go.set()

    out, got = send(FilePart.open(path), read, check)
    assert paused == [True]
    assert taken == [True, False]
    assert got == b"head " + CONTENT
    assert out.done


@pytest.mark.usefixtures("way")
def test_a_file_that_shrinks_is_a_failure_told_once(path: Path) -> None:
    before = descriptors()
    part = FilePart.open(path)
    path.write_bytes(CONTENT[:1_000_000])
    out, got = send(part, read_all)
    assert got == (b"head " + CONTENT)[: len(got)]
    assert out.failures == [f"the file can't be read: it ends {len(CONTENT) - 1_000_000} bytes early"]
    assert not out.done
    assert descriptors() == before


@pytest.mark.usefixtures("way")
def test_a_client_that_goes_leaves_nothing_open(path: Path) -> None:
    before = descriptors()

    def read(sock: socket.socket) -> bytes:
        data = sock.recv(100)
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()
        return data

    out, got = send(FilePart.open(path), read)
    assert got
    assert not out.done
    assert not out.failures
    assert descriptors() == before


def test_only_regular_files_are_opened_and_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    before = descriptors()
    os.mkfifo(tmp_path / "fifo")
    for wrong in (tmp_path, tmp_path / "fifo", tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(OSError, match=r"regular|No such"):
            FilePart.open(wrong)
    with socket.socket() as sock, pytest.raises(OSError, match="regular"):
        FilePart.rest(sock.fileno(), 0)
    assert descriptors() == before


def test_a_part_can_be_read_at_once_and_is_closed_then(path: Path) -> None:
    with path.open("rb") as file:
        part = FilePart.rest(file.fileno(), len(CONTENT) - 10)
        assert FilePart.rest(file.fileno(), len(CONTENT) + 10).read() == b""
    assert part.size == 10
    assert part.read() == CONTENT[-10:]
    assert part.fd == -1
    part.close()


def test_what_is_left_of_a_file_without_a_size_is_not_known(path: Path) -> None:
    path.write_bytes(b"")
    before = descriptors()
    with path.open("rb") as file, pytest.raises(OSError, match="without a size"):
        FilePart.rest(file.fileno(), 0)
    part = FilePart.open(path)
    path.write_bytes(CONTENT[: PIECE + 1])
    assert [part.piece(), part.piece(), part.piece()] == [CONTENT[:PIECE], CONTENT[PIECE : PIECE + 1], b""]
    part.close()
    assert descriptors() == before
