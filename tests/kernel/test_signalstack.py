"""However many signals come at once, there is room to handle them, in the process and in what it forks."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

ALL = [
    number
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT, signal.SIGCHLD)
    and number not in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)  # which SIGCONT takes back
    and number not in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
]

# Stopped, it gets all of them before it runs again: so the kernel pushes all their frames on top of each other.
PROGRAM = """
import faulthandler, os, signal, sys, time
signals = {signals}
taken = set()
for number in signals:
    signal.signal(number, lambda number, frame: taken.add(number))
{prepare}
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(write, b".")
    until = time.monotonic() + 10
    while len(taken) < len(signals) and time.monotonic() < until:
        time.sleep(0.01)
    os._exit(0 if len(taken) == len(signals) else 1)
os.read(read, 1)
os.kill(pid, signal.SIGSTOP)
os.waitpid(pid, os.WUNTRACED)
for number in signals:
    os.kill(pid, number)
os.kill(pid, signal.SIGCONT)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

OURS = "from supervisor.kernel.signalstack import widen_signal_stack; widen_signal_stack()"


@pytest.mark.parametrize(
    ("prepare", "end"),
    [("faulthandler.enable(2)", -signal.SIGSEGV), (OURS, 0), (f"{OURS}; faulthandler.disable(); {OURS}", 0)],
    ids=["with faulthandler's own stack it dies", "with ours it lives", "and when it is asked for again"],
)
def test_all_signals_at_once(prepare: str, end: int) -> None:
    program = PROGRAM.format(signals=[int(number) for number in ALL], prepare=prepare)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert int(done.stdout) == end


def test_a_fork_has_a_signal_stack_of_its_own() -> None:
    program = f"""
import os
{OURS}
from supervisor.kernel.signalstack import _memory
pid = os.fork()
if pid == 0:
    _memory[0][:] = b"x" * len(_memory[0])
    os._exit(0)
os.waitpid(pid, 0)
print(bytes(_memory[0]).strip(bytes(1)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "b''"
