from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.kernel.reactor import Reactor
from supervisor.observe.sink import Sink
from tests.kernel.conftest import Until, in_python

Ends = tuple[int, int]
Maker = Callable[..., Sink]


@pytest.fixture
def sink_to(reactor: Reactor) -> Iterator[Maker]:
    """Makes sinks and closes them at the end."""
    sinks: list[Sink] = []

    def make(fd: int, name: str = "stdout", **options: int) -> Sink:
        sinks.append(Sink(reactor, fd, name, **options))
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close(timeout=0)


def make_pipe() -> Ends:
    return os.pipe()


def make_socket() -> Ends:
    left, right = socket.socketpair()
    return left.detach(), right.detach()


def make_terminal() -> Ends:
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    return ours, theirs


@pytest.fixture(params=[make_pipe, make_socket, make_terminal], ids=["pipe", "socket", "terminal"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """The reader's end, and the end that is somebody's stdout."""
    reader, writer = request.param()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def read_available(fd: int) -> bytes:
    os.set_blocking(fd, False)
    data = b""
    try:
        while portion := os.read(fd, 1 << 20):
            data += portion
    except BlockingIOError:
        pass
    return data


class Collector:
    """Reads an end on the reactor."""

    def __init__(self, reactor: Reactor, fd: int) -> None:
        self.data = b""
        self._fd = fd
        reactor.add_reader(fd, self.read)

    def read(self) -> None:
        self.data += read_available(self._fd)

    @property
    def lines(self) -> list[bytes]:
        return self.data.splitlines()


def number(i: int, size: int = 100) -> bytes:
    return b"%08d" % i + b"x" * (size - 9) + b"\n"


def test_a_line_is_written_at_once_when_there_is_room(ends: Ends, sink_to: Maker) -> None:
    reader, writer = ends
    sink_to(writer).write(b"hello\n")
    assert read_available(reader) == b"hello\n"


def test_the_descriptor_that_we_were_given_stays_blocking_and_open(ends: Ends, sink_to: Maker) -> None:
    _reader, writer = ends
    sink = sink_to(writer)
    sink.write(b"hello\n")
    assert os.get_blocking(writer)
    sink.close()
    assert os.write(writer, b"still there\n") == 12


def test_a_reader_that_stops_never_blocks_and_misses_the_oldest_lines(
    ends: Ends, sink_to: Maker, reactor: Reactor, until: Until
) -> None:
    reader, writer = ends
    sink = sink_to(writer, limit=10_000)
    started = time.monotonic()
    total = 20_000  # 2 MB: more than any of the three holds
    for i in range(total):
        sink.write(number(i))
    assert time.monotonic() - started < 10
    collector = Collector(reactor, reader)
    until(lambda: collector.lines and collector.lines[-1] == number(total - 1)[:-1])
    reactor.remove_reader(reader)
    notices = [(i, line) for i, line in enumerate(collector.lines) if line.startswith(b"holdfast:")]
    [(at, notice)] = notices
    numbers = [int(line[:8]) for line in collector.lines if not line.startswith(b"holdfast:")]
    dropped = total - len(numbers)
    assert notice == b"holdfast: %d lines dropped: the reader of stdout is too slow" % dropped
    assert numbers == [*range(at), *range(at + dropped, total)]
    assert all(line == number(int(line[:8]))[:-1] for i, line in enumerate(collector.lines) if i != at)


def test_a_slow_reader_within_the_limit_misses_nothing(
    ends: Ends, sink_to: Maker, reactor: Reactor, until: Until
) -> None:
    reader, writer = ends
    sink = sink_to(writer)
    for i in range(5000):
        sink.write(number(i))
    collector = Collector(reactor, reader)
    until(lambda: len(collector.data) == 5000 * 100)
    reactor.remove_reader(reader)
    assert collector.data == b"".join(number(i) for i in range(5000))


def test_a_reader_that_went_away_harms_nobody(sink_to: Maker, reactor: Reactor) -> None:
    for reader, writer in (make_pipe(), make_socket(), make_terminal()):
        sink = sink_to(writer)
        for i in range(2000):
            sink.write(number(i))
        os.close(reader)
        reactor.call_later(0.01, reactor.stop)
        reactor.run()
        sink.write(b"into the void\n")
        sink.close()
        os.close(writer)


def test_a_broken_pipe_keeps_the_reactor_idle(sink_to: Maker, reactor: Reactor) -> None:
    reader, writer = make_pipe()
    sink = sink_to(writer)
    for i in range(2000):
        sink.write(number(i))
    os.close(reader)
    busy = time.process_time()
    reactor.call_later(0.2, reactor.stop)
    reactor.run()
    assert time.process_time() - busy < 0.1
    os.close(writer)


def test_closing_writes_out_what_waits_for_a_reader_that_reads(ends: Ends, sink_to: Maker) -> None:
    reader, writer = ends
    sink = sink_to(writer)
    for i in range(5000):
        sink.write(number(i))
    command = [sys.executable, "-c", "import os, sys; n = 0\nwhile n < 500000: n += len(os.read(0, 65536))\nprint(n)"]
    os.set_blocking(reader, True)
    with subprocess.Popen(command, stdin=reader, stdout=subprocess.PIPE) as process:
        sink.close(timeout=20)
        assert process.communicate(timeout=20)[0] == b"500000\n"


def test_closing_waits_no_longer_than_told_for_a_reader_that_does_not(ends: Ends, sink_to: Maker) -> None:
    _reader, writer = ends
    sink = sink_to(writer)
    for i in range(5000):
        sink.write(number(i))
    started = time.monotonic()
    sink.close(timeout=0.1)
    assert 0.09 < time.monotonic() - started < 5
    sink.write(b"too late\n")
    sink.close()


def test_a_closed_sink_leaves_no_descriptor(sink_to: Maker) -> None:
    for make in (make_pipe, make_socket, make_terminal):
        reader, writer = make()
        before = len(os.listdir("/proc/self/fd"))
        sink = sink_to(writer)
        sink.write(b"x\n")
        sink.close()
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(reader)
        os.close(writer)


def test_a_file_is_shared_with_others_who_write_to_it(tmp_path: Path, sink_to: Maker) -> None:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)  # as a shell's `>` opens it: no O_APPEND
    os.write(fd, b"before\n")
    sink = sink_to(fd)
    sink.write(b"from the sink\n")
    os.write(fd, b"between\n")
    sink.write(b"again\n")
    sink.close()
    os.write(fd, b"after\n")
    os.close(fd)
    assert path.read_text() == "before\nfrom the sink\nbetween\nagain\nafter\n"


def test_a_full_disk_drops_counts_and_recovers(tmp_path: Path, sink_to: Maker) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sink = sink_to(fd)
    sink.write(b"fits\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, hard))
    try:
        sink.write(b"lost\n")
        sink.write(b"lost too\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    sink.write(b"room again\n")
    sink.close()
    os.close(fd)
    assert (tmp_path / "log").read_text() == ("fits\nholdfast: 2 lines dropped: stdout: File too large\nroom again\n")


def test_a_null_device_and_a_closed_descriptor_take_everything(sink_to: Maker) -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    for target in (fd, 999_999):
        sink = sink_to(target)
        for i in range(20_000):
            sink.write(number(i))
        sink.close()
    os.close(fd)


def test_a_line_longer_than_everything_is_dropped_and_counted(sink_to: Maker) -> None:
    reader, writer = make_pipe()
    sink = sink_to(writer, limit=1000)
    sink.write(b"x" * 2000 + b"\n")
    sink.write(b"next\n")
    assert read_available(reader) == b"holdfast: 1 line dropped: the reader of stdout is too slow\nnext\n"
    os.close(reader)
    os.close(writer)


# A pipe of another user can't be opened again: this process makes one as root and goes on as nobody.
FOREIGN_PIPE = """
import json, os, select, time
from supervisor.kernel.reactor import Reactor
from supervisor.observe.sink import Sink
reader, writer = os.pipe()
os.setgroups([])
os.setuid(65534)
reactor = Reactor(lambda error: print(repr(error)))
sink = Sink(reactor, writer, "stdout", limit=20_000)
started = time.monotonic()
for i in range(5000):
    sink.write(b"%08d" % i + b"x" * 91 + b"\\n")
blocked_for = time.monotonic() - started
data = b""
def read():
    global data
    data += os.read(reader, 65536)
    if b"00004999" in data and data.endswith(b"\\n"):
        reactor.stop()
reactor.add_reader(reader, read)
reactor.run()
lines = data.splitlines()
notice = [line.decode() for line in lines if line.startswith(b"holdfast")]
dropped = int(notice[0].split()[1])
print(json.dumps([blocked_for < 5, len(notice), len(lines) - 1 + dropped, os.get_blocking(writer)]))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make a pipe that nobody may open")
def test_a_pipe_that_cannot_be_opened_again_does_not_block_either() -> None:
    assert in_python(FOREIGN_PIPE) == [True, 1, 5000, True]


def test_colour_is_for_terminals_whose_owner_wants_it(sink_to: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = make_terminal()
    reader, writer = make_pipe()
    terminal, pipe = sink_to(theirs), sink_to(writer)
    wanted = []
    for term, no_colour in (("xterm", ""), ("xterm", "1"), ("dumb", "")):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setenv("NO_COLOR", no_colour)
        wanted.append((terminal.wants_colour, pipe.wants_colour))
    assert wanted == [(True, False), (False, False), (False, False)]
    for fd in (ours, theirs, reader, writer):
        os.close(fd)


def test_two_sinks_may_share_one_pipe(sink_to: Maker) -> None:
    reader, writer = make_pipe()
    sink_to(writer, "stdout").write(b"out\n")
    sink_to(writer, "stderr").write(b"err\n")
    assert read_available(reader) == b"out\nerr\n"
    assert fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK == 0
    os.close(reader)
    os.close(writer)


def test_what_was_not_written_yet_is_written_first_by_another_sink_and_no_line_is_cut(
    sink_to: Maker, reactor: Reactor, until: Until
) -> None:
    reader, writer = make_pipe()
    sink = sink_to(writer)
    expected = b"".join(number(i) for i in range(3000))
    for i in range(2000):
        sink.write(number(i))
    left = sink.unwritten()
    assert left
    reactor.remove_writer(sink._fd)  # as an execv does
    successor = sink_to(writer)
    successor.write_first(left)
    for i in range(2000, 3000):
        successor.write(number(i))
    got = bytearray()

    def read() -> bool:
        got.extend(read_available(reader))
        return len(got) >= len(expected)

    until(read)
    assert bytes(got) == expected
    os.close(reader)
    os.close(writer)
