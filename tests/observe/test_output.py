from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.kernel.reactor import Reactor
from supervisor.messages.state import Stream
from supervisor.observe.output import CUT, MAX_LINE, LineSplitter, OutputReader
from tests.kernel.conftest import Until

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe whose read end the reader closes."""
    read_end, write_end = os.pipe()
    yield read_end, write_end
    os.close(write_end)


def split(portions: list[bytes], limit: int = MAX_LINE) -> list[str]:
    splitter = LineSplitter(limit)
    lines = [line for portion in portions for line in splitter.feed(portion)]
    return lines + splitter.end()


@pytest.mark.parametrize(
    ("portions", "lines"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"on", b"e\ntw", b"o"], ["one", "two"]),
        ([b"\n\n"], ["", ""]),
        ([b"dos\r\nunix\n"], ["dos", "unix"]),
        ([b"progress\rdone\n"], ["progress\rdone"]),
        ([b"\xff\xfe ok\n"], ["\ufffd\ufffd ok"]),
        ([b"\xc3", b"\xbc\n"], ["ü"]),
        ([b""], []),
    ],
)
def test_lines_come_out_whole_however_they_went_in(portions: list[bytes], lines: list[str]) -> None:
    assert split(portions) == lines


def test_a_line_just_short_enough_is_whole_and_a_longer_one_is_marked() -> None:
    assert split([b"x" * MAX_LINE + b"\n"]) == ["x" * MAX_LINE]
    assert split([b"x" * (MAX_LINE + 1) + b"\nnext\n"]) == ["x" * MAX_LINE + CUT, CUT + "x", "next"]


def test_an_endless_line_comes_out_while_it_goes_on() -> None:
    splitter = LineSplitter(limit=10)
    assert splitter.feed(b"x" * 25) == ["x" * 10 + CUT, CUT + "x" * 10 + CUT]
    assert splitter.feed(b"") == []
    assert splitter.end() == [CUT + "x" * 5]


def test_a_character_is_never_cut() -> None:
    pieces = split([("ü" * 20 + "😀" * 20 + "\n").encode()], limit=15)
    assert "".join(pieces).replace(CUT, "") == "ü" * 20 + "😀" * 20
    assert all(len(piece.replace(CUT, "").encode()) <= 15 for piece in pieces)


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"\r\n", "ü😀".encode()])), st.integers(4, 20))
def test_portions_make_no_difference(portions: list[bytes], limit: int) -> None:
    assert split(portions, limit) == split([b"".join(portions)], limit)
    assert split(portions, limit) == split([bytes([byte]) for byte in b"".join(portions)], limit)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=f"\r\n{CUT}"))), st.integers(4, 20))
def test_nothing_is_lost(lines: list[str], limit: int) -> None:
    pieces = split(["".join(f"{line}\n" for line in lines).encode()], limit)
    assert "\n".join(pieces).replace(f"{CUT}\n{CUT}", "").split("\n") == (lines or [""])


def test_lines_and_the_partial_last_one_arrive_then_the_end(reactor: Reactor, until: Until) -> None:
    read_end, write_end = os.pipe()
    seen: list[str] = []
    reader = OutputReader(reactor, Stream(fd=read_end), seen.append, lambda: seen.append("END"))
    os.write(write_end, b"one\ntwo\nthr")
    until(lambda: seen == ["one", "two"] and reader.is_open)
    os.write(write_end, b"ee")
    os.close(write_end)
    until(lambda: "END" in seen)
    assert seen == ["one", "two", "three", "END"]
    assert not reader.is_open
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read_end)


def test_what_a_process_prints_arrives_to_the_last_line(reactor: Reactor, until: Until) -> None:
    read_end, write_end = os.pipe()
    seen: list[str] = []
    reader = OutputReader(reactor, Stream(fd=read_end), seen.append)
    with subprocess.Popen(["seq", "1", "50000"], stdout=write_end):
        os.close(write_end)
        until(lambda: not reader.is_open)
    assert seen == [str(number) for number in range(1, 50001)]
    assert reader.last_lines == tuple(str(number) for number in range(49951, 50001))


def test_a_chatty_process_leaves_the_others_their_turn(reactor: Reactor) -> None:
    read_end, write_end = os.pipe()
    turns: list[str] = []
    lines: list[str] = []
    other = os.eventfd(1)
    with subprocess.Popen(["yes", "x" * 1000], stdout=write_end) as chatty:
        os.close(write_end)
        reader = OutputReader(reactor, Stream(fd=read_end), lines.append)
        reactor.add_reader(other, lambda: turns.append("other"))
        reactor.call_later(0.3, reactor.stop)
        reactor.run()
        chatty.kill()
    assert lines
    # At most 64 KiB of its output for each turn of the others, and what was in the pipe when they began.
    assert len(lines) * 1001 <= (len(turns) + 1) * 64 * 1024
    reactor.remove_reader(other)
    os.close(other)
    reader.close()


def test_closing_takes_what_lies_in_the_pipe_though_somebody_holds_it(reactor: Reactor, pipe: Pipe) -> None:
    read_end, write_end = pipe
    seen: list[str] = []
    reader = OutputReader(reactor, Stream(fd=read_end), seen.append, lambda: seen.append("END"))
    os.write(write_end, b"last\nwords")
    reader.close()
    reader.close()
    assert seen == ["last", "words", "END"]


def test_draining_takes_what_lies_in_the_pipe_and_leaves_it_open(reactor: Reactor, until: Until, pipe: Pipe) -> None:
    read_end, write_end = pipe
    seen: list[str] = []
    reader = OutputReader(reactor, Stream(fd=read_end), seen.append)
    os.write(write_end, b"one\ntw")
    reader.drain()
    assert seen == ["one"]
    os.write(write_end, b"o\n")
    until(lambda: seen == ["one", "two"])
    reader.close()
    reader.drain()
    assert seen == ["one", "two"]


def test_draining_ends_though_somebody_goes_on_writing(reactor: Reactor) -> None:
    read_end, write_end = os.pipe()
    with subprocess.Popen(["yes"], stdout=write_end) as endless:
        os.close(write_end)
        reader = OutputReader(reactor, Stream(fd=read_end), lambda line: None)
        reader.drain()
        endless.kill()
    reader.close()


def test_closing_takes_all_that_a_full_pipe_holds(reactor: Reactor, pipe: Pipe) -> None:
    read_end, write_end = pipe
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 256 * 1024)
    os.set_blocking(write_end, False)
    written = os.write(write_end, b"x" * 1023 + b"\n")
    try:
        while True:
            written += os.write(write_end, b"x" * 1023 + b"\n")
    except BlockingIOError:
        pass
    seen: list[str] = []
    OutputReader(reactor, Stream(fd=read_end), seen.append).close()
    assert len(seen) * 1024 == written


def test_closing_an_empty_pipe_ends_it(reactor: Reactor, pipe: Pipe) -> None:
    ends: list[str] = []
    OutputReader(reactor, Stream(fd=pipe[0]), ends.append, lambda: ends.append("END")).close()
    assert ends == ["END"]


def test_the_last_lines_are_kept_short(reactor: Reactor, pipe: Pipe) -> None:
    read_end, write_end = pipe
    reader = OutputReader(reactor, Stream(fd=read_end), lambda line: None)
    os.write(write_end, b"x" * 5000 + b"\n")
    reader.close()
    assert reader.last_lines == ("x" * 1024,)


def test_a_terminal_that_hangs_up_is_an_end(reactor: Reactor, until: Until) -> None:
    ours, theirs = os.openpty()
    seen: list[str] = []
    reader = OutputReader(reactor, Stream(fd=ours), seen.append)
    os.write(theirs, b"on a terminal\n")
    until(lambda: seen)
    os.close(theirs)
    until(lambda: not reader.is_open)
    assert seen == ["on a terminal"]


def test_a_line_of_which_the_beginning_was_read_by_another_reader_comes_out_whole(
    reactor: Reactor, until: Until, pipe: Pipe
) -> None:
    read_end, write_end = pipe
    first: list[str] = []
    reader = OutputReader(reactor, Stream(fd=read_end), first.append)
    os.write(write_end, b"whole\n" + b"x" * (MAX_LINE + 1))
    until(lambda: len(first) == 2)
    state = reader.state()
    reactor.remove_reader(read_end)
    second: list[str] = []
    successor = OutputReader(reactor, state, second.append)
    os.write(write_end, b" end\n")
    until(lambda: second)
    assert first == ["whole", "x" * MAX_LINE + CUT]
    assert second == [f"{CUT}x end"]
    assert successor.last_lines[0] == "whole"
    successor.close()
