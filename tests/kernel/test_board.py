from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from supervisor.errors import SurroundingsError
from supervisor.kernel.board import ROW_BYTES, ROWS, Board, Cell, WorkerState, open_row, private_row
from tests.kernel.conftest import in_python, wait_for

WRITER = """
import os, sys
from supervisor.kernel.board import Cell, open_row
row = open_row(int(sys.argv[1]), int(sys.argv[2]))
row[Cell.PID] = os.getpid()
for _ in range(10_000):
    row[Cell.FINISHED] += 1
row[Cell.STATE] = 3
print("null", flush=True)
"""

HANGING = """
import os, sys
from supervisor.kernel.board import Cell, open_row
row = open_row(int(sys.argv[1]), int(sys.argv[2]))
row[Cell.STARTED] = 7
row[Cell.PID] = os.getpid()
sys.stdin.read()
"""


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board("test")
    yield board
    board.close()


def test_a_taken_row_is_all_zeroes_also_after_another_worker_had_it(board: Board) -> None:
    number = board.take()
    row = board.row(number)
    for cell in range(Cell.END):
        row[cell] = 2**64 - 1
    board.release(number)
    assert board.take() == number
    assert board.row(number).tolist() == [0] * Cell.END


def test_rows_in_use_at_once_are_different(board: Board) -> None:
    numbers = {board.take() for _ in range(ROWS)}
    assert len(numbers) == ROWS
    assert max(numbers) < ROWS


def test_a_full_board_says_so(board: Board) -> None:
    for _ in range(ROWS):
        board.take()
    with pytest.raises(SurroundingsError, match="no free row"):
        board.take()
    board.release(17)
    assert board.take() == 17


def test_another_process_writes_and_the_master_reads(board: Board) -> None:
    number = board.take()
    in_python(WRITER, board.fd, number, pass_fds=(board.fd,))
    row = board.row(number)
    assert row[Cell.FINISHED] == 10_000
    assert WorkerState(row[Cell.STATE]) is WorkerState.DRAINING


def test_two_processes_write_side_by_side_without_disturbing_each_other(board: Board) -> None:
    numbers = [board.take(), board.take()]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(board.fd), str(number)], pass_fds=(board.fd,), stdout=subprocess.DEVNULL
        )
        for number in numbers
    ]
    assert [writer.wait(30) for writer in writers] == [0, 0]
    assert [board.row(number)[Cell.FINISHED] for number in numbers] == [10_000, 10_000]
    assert [board.row(number)[Cell.PID] for number in numbers] == [writer.pid for writer in writers]


def test_two_writers_of_one_row_see_each_others_stores(board: Board) -> None:
    number = board.take()
    mine = open_row(board.fd, number)
    mine[Cell.FINISHED] = 5
    in_python(WRITER, board.fd, number, pass_fds=(board.fd,))
    assert mine[Cell.FINISHED] == board.row(number)[Cell.FINISHED] == 10_005


def test_the_row_of_a_worker_killed_in_its_tracks_reads_as_before(board: Board) -> None:
    number = board.take()
    row = board.row(number)
    with subprocess.Popen(
        [sys.executable, "-c", HANGING, str(board.fd), str(number)], pass_fds=(board.fd,), stdin=subprocess.PIPE
    ) as worker:
        wait_for(lambda: row[Cell.PID] == worker.pid)
        worker.send_signal(signal.SIGKILL)
    assert row[Cell.PID] == worker.pid
    assert row[Cell.STARTED] == 7


def test_a_worker_can_reach_its_own_row_only(board: Board) -> None:
    row = open_row(board.fd, board.take())
    assert len(row) == Cell.END
    assert memoryview(row.obj).nbytes == ROW_BYTES
    with pytest.raises(IndexError):
        row[Cell.END] = 1


def test_the_board_costs_only_the_pages_that_were_used(board: Board) -> None:
    before = os.fstat(board.fd).st_blocks
    board.row(board.take())[Cell.PID] = 1
    assert os.fstat(board.fd).st_blocks - before <= ROW_BYTES // 512


def test_the_descriptor_is_not_inherited_by_programs(board: Board) -> None:
    assert not os.get_inheritable(board.fd)


def test_a_closed_board_leaves_rows_that_are_still_held_readable() -> None:
    board = Board("test")
    number = board.take()
    row = board.row(number)
    row[Cell.FINISHED] = 3
    board.close()
    assert row[Cell.FINISHED] == 3


def test_a_private_row_has_the_same_cells() -> None:
    row = private_row()
    row[Cell.HEARTBEAT_NS] = 2**63
    assert len(row) == Cell.END
    assert row[Cell.HEARTBEAT_NS] == 2**63


def test_another_master_goes_on_with_a_board_and_with_nothing_else() -> None:
    first = Board("first")
    number = first.take()
    first.row(number)[Cell.STARTED] = 7
    second = Board("second")
    second.resume(os.dup(first.fd), [number])
    assert second.row(number)[Cell.STARTED] == 7
    assert second.take() != number
    impostor = os.memfd_create("short")
    with pytest.raises(SurroundingsError, match="a board was expected"):
        second.resume(impostor, [])
    with pytest.raises(PermissionError):
        os.ftruncate(first.fd, 0)
    os.close(impostor)
    first.close()
    second.close()
