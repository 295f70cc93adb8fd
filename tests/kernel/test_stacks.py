"""A record of stacks: written without the interpreter's help, read without waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from supervisor.kernel.stacks import DUMP, MAX_RECORD, StackRecord

BEGIN = "import faulthandler, os, re, signal, sys, time\nfrom supervisor.kernel.stacks import leave_stacks_in\n"


@pytest.fixture
def record() -> Iterator[StackRecord]:
    made = StackRecord("test")
    yield made
    made.close()


def begin(record: StackRecord, program: str) -> subprocess.Popen[str]:
    """A process that leaves its stacks in `record`, and has said that it does."""
    program = f"{BEGIN}leave_stacks_in({record.fd})\nprint('begun', flush=True)\n{program}"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        pass_fds=[record.fd],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def until(what: str, probe: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not probe():
        assert time.monotonic() < ends, what
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL])
def test_a_fatal_signal_leaves_the_stack_and_ends_the_process(record: StackRecord, number: signal.Signals) -> None:
    process = begin(record, f"def deep():\n  os.kill(os.getpid(), {number:d})\ndeep()")
    process.communicate(timeout=10)
    assert process.returncode == -number
    assert record.fatal().startswith("Fatal Python error: ")
    assert 'File "<string>", line 6 in deep' in record.fatal()


def test_an_asked_process_writes_its_stack_while_c_code_keeps_the_interpreter(record: StackRecord) -> None:
    process = begin(record, "def stuck():\n  re.match('(a+)+$', 'a' * 60 + 'b')\nprint('now', flush=True)\nstuck()")
    assert process.stdout is not None
    process.stdout.readline()

    def is_shown() -> bool:
        process.send_signal(DUMP)
        return b"in stuck" in record.read()

    until("the dump", is_shown)
    assert b"line 6 in stuck" in record.read()
    assert record.fatal() == ""
    assert process.poll() is None
    process.kill()
    process.communicate(timeout=10)


def test_what_was_asked_for_before_is_no_fatal_end(record: StackRecord) -> None:
    process = begin(record, f"os.kill(os.getpid(), {DUMP:d})\nos.abort()")
    process.communicate(timeout=10)
    assert record.read().index(b"Fatal") > 0
    assert record.fatal().startswith("Fatal Python error: Aborted")


def test_a_record_can_be_cleared_while_somebody_writes(record: StackRecord) -> None:
    process = begin(record, f"while True:\n  os.kill(os.getpid(), {DUMP:d})")
    until("a dump", lambda: record.size > 0)
    for _ in range(20):
        record.clear()
        until("a dump more", lambda: record.size > 0)
        assert not record.read().startswith(b"\0")
    process.kill()
    process.communicate(timeout=10)


def test_a_child_of_the_process_leaves_its_end_to_stderr(record: StackRecord) -> None:
    process = begin(record, "if os.fork() == 0:\n  os.abort()\nos.wait()")
    _output, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "Fatal Python error: Aborted" in errors
    assert record.size == 0


def test_no_more_is_read_than_there_can_be(record: StackRecord) -> None:
    os.ftruncate(record.fd, 4 * MAX_RECORD)
    assert len(record.read()) == MAX_RECORD
