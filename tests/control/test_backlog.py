from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.control.backlog import Backlog


def notice(count: int) -> bytes:
    return b"lost %d\n" % count


def test_lines_come_out_whole_and_in_order() -> None:
    backlog = Backlog(notice)
    for number in range(5):
        backlog.push(b"%d\n" % number)
    assert backlog.take(3) == b"0\n1\n"
    assert backlog.take(100) == b"2\n3\n4\n"
    assert not backlog
    assert backlog.take(100) == b""


def test_a_full_backlog_loses_the_oldest_and_says_how_many() -> None:
    backlog = Backlog(notice, max_lines=2)
    for number in range(5):
        backlog.push(b"%d\n" % number)
    assert backlog.take(100) == b"lost 3\n3\n4\n"
    backlog.push(b"5\n")
    assert backlog.take(100) == b"5\n"


def test_bytes_are_bounded_too() -> None:
    backlog = Backlog(notice, max_bytes=10)
    for _ in range(5):
        backlog.push(b"four\n")
    assert backlog.take(100) == b"lost 3\nfour\nfour\n"


def test_the_newest_line_is_kept_however_long_it_is() -> None:
    backlog = Backlog(notice, max_bytes=10)
    backlog.push(b"a\n")
    backlog.push(b"x" * 50 + b"\n")
    assert backlog.take(1000) == b"lost 1\n" + b"x" * 50 + b"\n"


@given(st.lists(st.one_of(st.integers(1, 40), st.none()), max_size=60))
def test_every_line_is_delivered_or_counted(steps: list[int | None]) -> None:
    backlog = Backlog(notice, max_lines=5, max_bytes=60)
    pushed, out = 0, b""
    for step in steps:
        if step is None:
            out += backlog.take(20)
        else:
            pushed += 1
            backlog.push(b"x" * step + b"\n")
    while backlog:
        out += backlog.take(20)
    lines = out.splitlines()
    lost = sum(int(line.split()[1]) for line in lines if line.startswith(b"lost"))
    assert lost + sum(not line.startswith(b"lost") for line in lines) == pushed
