"""What a worker puts on record, and that it lies where the reader looks for it."""

from __future__ import annotations

import signal
import subprocess
import sys

from supervisor.kernel.board import HEAD_BYTES, SEATS_COUNT, Board, private_row
from supervisor.kernel.recorder import NO_SEAT, Recorder
from supervisor.observe.flight import Flight, read
from tests.kernel.conftest import wait_for

HEAD = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"

DYING = """
import os, sys
from supervisor.kernel.board import Cell, open_row
from supervisor.kernel.recorder import Recorder
row = open_row(int(sys.argv[1]), int(sys.argv[2]))
recorder = Recorder(row)
recorder.keep(b"192.0.2.7", b"GET /waits HTTP/1.1\\r\\n\\r\\n", 5.0, "an-id")
recorder.enter(b"192.0.2.8", b"POST /poison HTTP/1.1\\r\\n\\r\\n")
row[Cell.STARTED] = 2
row[Cell.PID] = os.getpid()
sys.stdin.read()
"""


def seen(recorder: Recorder) -> Flight:
    return read(bytes(recorder.memory), 100.0)


def test_the_current_request_is_on_record_until_it_leaves() -> None:
    recorder = Recorder(private_row())
    recorder.enter(b"192.0.2.1", HEAD)
    running = seen(recorder).running
    assert running is not None
    assert (running.method, running.path, running.client) == ("GET", "/a", "192.0.2.1")
    recorder.leave()
    assert seen(recorder) == Flight()


def test_a_head_of_any_length_is_cut_to_what_there_is_room_for() -> None:
    for size in (HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 64 * 1024):
        recorder = Recorder(private_row())
        recorder.enter(b"", b"GET /long HTTP/1.1\r\nX: " + b"x" * size)
        recorder.keep(b"", HEAD, 1.0, "")
        flight = seen(recorder)
        assert flight.running is not None
        assert flight.running.path == "/long"
        assert [each.path for each in flight.waiting] == ["/a"]


def test_seats_are_taken_left_and_taken_again() -> None:
    recorder = Recorder(private_row())
    seats = [recorder.keep(b"", b"GET /%d HTTP/1.1\r\n\r\n" % number, 1.0 + number, "") for number in range(5)]
    assert len(set(seats)) == 5
    recorder.vacate(seats[1])
    recorder.vacate(seats[3])
    assert [each.path for each in seen(recorder).waiting] == ["/0", "/2", "/4"]
    assert recorder.keep(b"", HEAD, 9.0, "") in seats


def test_of_too_many_the_oldest_stay_on_record() -> None:
    recorder = Recorder(private_row())
    seats = [recorder.keep(b"", b"GET /%d HTTP/1.1\r\n\r\n" % number, 1.0 + number, "") for number in range(70)]
    assert seats[SEATS_COUNT:] == [NO_SEAT] * (70 - SEATS_COUNT)
    assert [each.path for each in seen(recorder).waiting] == [f"/{number}" for number in range(SEATS_COUNT)]
    for seat in seats:
        recorder.vacate(seat)
    assert seen(recorder).waiting == ()
    assert recorder.keep(b"", HEAD, 9.0, "") != NO_SEAT


def test_websockets_leave_half_of_the_seats_to_requests() -> None:
    recorder = Recorder(private_row())
    kept = [recorder.keep_websocket(b"", HEAD, 1.0) for _ in range(SEATS_COUNT)]
    assert sum(seat != NO_SEAT for seat in kept) == SEATS_COUNT // 2
    assert recorder.keep(b"", HEAD, 1.0, "") != NO_SEAT


def test_a_thread_has_one_seat_for_one_request_after_the_other() -> None:
    recorder = Recorder(private_row())
    record, rest = recorder.thread(0xABC)
    record(b"192.0.2.1", HEAD, 3.0)
    record(b"192.0.2.2", b"GET /b HTTP/1.1\r\n\r\n", 4.0)
    (only,) = seen(recorder).waiting
    assert (only.path, only.client, only.thread, only.age_s) == ("/b", "192.0.2.2", 0xABC, 96.0)
    rest()
    assert seen(recorder).waiting == ()


def test_a_thread_too_many_is_not_on_record_and_runs_all_the_same() -> None:
    recorder = Recorder(private_row())
    for ident in range(1, SEATS_COUNT + 1):
        recorder.thread(ident)[0](b"", HEAD, 1.0)
    record, rest = recorder.thread(99)
    record(b"", HEAD, 1.0)
    rest()
    assert len(seen(recorder).waiting) == SEATS_COUNT


def test_what_a_killed_process_had_in_hand_is_read_after_its_death() -> None:
    board = Board("test")
    number = board.take()
    with subprocess.Popen(
        [sys.executable, "-c", DYING, str(board.fd), str(number)], pass_fds=(board.fd,), stdin=subprocess.PIPE
    ) as worker:
        wait_for(lambda: board.row(number)[0] == worker.pid)
        worker.send_signal(signal.SIGKILL)
    flight = read(board.memory(number), 10.0)
    assert [str(each) for each in flight.requests] == ["POST /poison from 192.0.2.8", "GET /waits from 192.0.2.7"]
    assert flight.is_certain
    assert flight.waiting[0].request_id == "an-id"
    assert flight.waiting[0].age_s == 5.0
    assert flight.others == 0
    board.release(number)
    assert read(board.memory(board.take()), 10.0) == Flight()
    board.close()
