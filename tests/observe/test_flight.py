"""What is read from a flight recorder, whole or broken."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.kernel.board import HEAD, ROW_BYTES, SEAT, SEATS, Cell, private_row
from supervisor.kernel.recorder import Recorder
from supervisor.observe.flight import MAX_PATH, Flight, path_of, read, serving


def recorder() -> Recorder:
    return Recorder(private_row())


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a/b?token=secret", "/a/b"),
        ("/", "/"),
        ("*", "*"),
        ("http://host:80/x?y", "/x"),
        ("https://user:secret@host", "/"),
        ("?q", "/"),
        ("/%00%0a", "/%00%0a"),
        ("/tab\x7f\x85", "/tab\\x7f\\x85"),
        ("/" + "x" * 200, "/" + "x" * (MAX_PATH - 2) + "…"),
    ],
)
def test_of_a_target_the_path_is_taken_and_no_query(target: str, path: str) -> None:
    assert path_of(target) == path


def test_nothing_else_of_a_head_is_taken() -> None:
    head = b"GET /a?key=secret1 HTTP/1.1\r\nCookie: secret2\r\nAuthorization: secret3\r\nX-Request-ID: secret4\r\n\r\n"
    assert "secret" not in repr(serving(b"192.0.2.1", head, 0.1))


def test_a_peer_that_is_believed_names_its_request() -> None:
    head = b"GET /a HTTP/1.1\r\nHost: x\r\nx-Request-Id:  abc-1 \r\n\r\n"
    named = serving(b"*192.0.2.1", head, 0.1)
    assert named is not None
    assert (named.request_id, named.client) == ("abc-1", "192.0.2.1")
    parent = b"GET /a HTTP/1.1\r\nTraceParent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
    traced = serving(b"*", parent, 0.1)
    assert traced is not None
    assert (traced.request_id, traced.client) == ("0af7651916cd43dd8448eb211c80319c", "")


@pytest.mark.parametrize("field", [b"X-Request-ID: abc", b"Traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"])
def test_a_name_that_comes_twice_is_none(field: bytes) -> None:
    once = serving(b"*", b"GET / HTTP/1.1\r\n%b\r\n\r\n" % field, 0.1)
    twice = serving(b"*", b"GET / HTTP/1.1\r\n%b\r\n%b\r\n\r\n" % (field, field), 0.1)
    assert once is not None
    assert once.request_id
    assert twice is not None
    assert not twice.request_id


def test_how_long_the_current_one_has_the_loop_is_told_by_the_heartbeat() -> None:
    row = private_row()
    writer = Recorder(row)
    row[Cell.HEARTBEAT_NS] = 39_950_000_000
    row[Cell.STARTED] = 3
    row[Cell.FINISHED] = 1
    writer.enter(b"", b"GET /slow HTTP/1.1\r\n\r\n")
    flight = read(bytes(writer.memory), 42.5)
    assert flight.running is not None
    assert flight.running.age_s == 2.5
    assert flight.is_certain
    assert flight.others == 1  # started, and not yet with the app
    assert flight.count == 2


def test_a_request_that_alone_waits_is_likely_what_the_loop_runs_and_not_certain() -> None:
    writer = recorder()
    writer.keep(b"", b"GET /a HTTP/1.1\r\n\r\n", 1.0, "")
    one = read(bytes(writer.memory), 2.0)
    assert one.running == one.waiting[0]
    assert not one.is_certain
    assert one.requests == one.waiting
    writer.keep(b"", b"GET /b HTTP/1.1\r\n\r\n", 1.5, "")
    assert read(bytes(writer.memory), 2.0).running is None


def test_requests_in_threads_are_not_what_the_loop_runs_and_found_by_their_thread() -> None:
    writer = recorder()
    record, _ = writer.thread(77)
    record(b"", b"GET /report HTTP/1.1\r\n\r\n", 1.0)
    flight = read(bytes(writer.memory), 2.0)
    assert flight.running is None
    assert flight.in_thread(77) == flight.waiting[0]
    assert flight.in_thread(0) is None


def test_the_oldest_comes_first() -> None:
    writer = recorder()
    for since in (3.0, 1.0, 2.0):
        writer.keep(b"", b"GET /%d HTTP/1.1\r\n\r\n" % since, since, "")
    assert [each.path for each in read(bytes(writer.memory), 5.0).waiting] == ["/1", "/2", "/3"]


def test_a_seat_without_its_time_was_being_written_and_is_no_request() -> None:
    writer = recorder()
    SEAT.pack_into(writer.memory, SEATS, b"", b"", b"GET /a HTTP/1.1\r\n\r\n", 0.0)
    assert read(bytes(writer.memory), 5.0) == Flight()


@given(st.binary(max_size=64), st.binary(max_size=300), st.floats(), st.binary(max_size=48), st.binary(max_size=300))
def test_whatever_lies_there_is_read_without_an_error(
    name: bytes, head: bytes, since: float, client: bytes, current: bytes
) -> None:
    writer = recorder()
    SEAT.pack_into(writer.memory, SEATS, name, client, b"GET /" + head, since)
    memory = bytearray(bytes(writer.memory))
    memory[HEAD : HEAD + len(current)] = current
    for each in read(bytes(memory), 5.0).requests:
        assert str(each).isprintable()
        assert len(each.path) <= MAX_PATH
        assert each.age_s >= 0


@given(st.integers())
def test_a_row_of_noise_is_read_without_an_error(seed: int) -> None:
    read(Random(seed).randbytes(ROW_BYTES), 5.0)


def flight(*paths: str, current: str = "", others: int = 0, busy: float = 0.3) -> Flight:
    row = private_row()
    writer = Recorder(row)
    for number, path in enumerate(paths):
        writer.keep(b"192.0.2.1", f"GET {path} HTTP/1.1\r\n\r\n".encode(), 10.0 + number, "")
    if current:
        writer.enter(b"192.0.2.2", f"POST {current} HTTP/1.1\r\n\r\n".encode())
    row[Cell.HEARTBEAT_NS] = int((19.95 - busy) * 1e9)
    row[Cell.STARTED] = len(paths) + bool(current) + others
    return read(bytes(writer.memory), 20.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (flight(), ""),
        (flight(current="/poison"), "serving POST /poison from 192.0.2.2 for 0.3 s"),
        (
            flight("/a", current="/poison", others=1),
            "serving POST /poison from 192.0.2.2 for 0.3 s, with 2 more under way",
        ),
        (flight(current="/poison", busy=0.05), "serving POST /poison from 192.0.2.2 for less than 0.1 s"),
        (flight("/a"), "serving GET /a from 192.0.2.1 for 10.0 s"),
        (
            flight("/a", "/b", others=10),
            "12 requests were under way, the last begun GET /b from 192.0.2.1, 9.0 s before",
        ),
        (flight(others=1), "1 request had not reached the app"),
        (flight(others=3), "3 requests had not reached the app"),
    ],
)
def test_a_flight_in_words(given: Flight, words: str) -> None:
    assert str(given) == words


def test_a_thread_that_was_hit_names_its_request() -> None:
    writer = recorder()
    for ident, path in ((7, b"a"), (8, b"b")):
        writer.thread(ident)[0](b"", b"GET /" + path + b" HTTP/1.1\r\n\r\n", 1.0)
    given = read(bytes(writer.memory), 2.0)
    assert len(given.suspects) == 2
    blamed = given.blamed_on(8)
    assert [each.path for each in blamed.suspects] == ["/b"]
    assert [each.path for each in blamed.requests] == ["/b", "/a"]
    assert given.blamed_on(9) == given
