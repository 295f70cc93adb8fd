"""Signals to a real worker, many at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from supervisor.kernel.stacks import DUMP
from tests.processes.cluster import until
from tests.processes.deeds import ask, deeds, told

HARMLESS = [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGWINCH, DUMP]


def at_once(pid: int, numbers: list[int]) -> None:
    """All of them are there when the process next runs."""
    os.kill(pid, signal.SIGSTOP)
    until("the process stopped", lambda: "T (stopped)" in Path(f"/proc/{pid}/status").read_text())
    for number in numbers:
        os.kill(pid, number)
    os.kill(pid, signal.SIGCONT)


def test_a_worker_survives_all_its_signals_at_once_and_then_leaves_by_term(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        (worker,) = cluster.workers()
        for _ in range(20):
            at_once(worker["pid"], [int(number) for number in HARMLESS])
        assert ask(cluster, "/pid") == str(worker["pid"])
        at_once(worker["pid"], [*map(int, HARMLESS), signal.SIGTERM])
        until("another worker", lambda: [w["pid"] for w in cluster.workers() if w["pid"] != worker["pid"]])
        (end,) = told(cluster, "worker.exited")
        assert end["reason"] == "exit code 0"


def test_with_the_signal_stack_of_faulthandler_it_would_not(tmp_path: Path) -> None:
    """The same signals, to a process prepared as a worker is, but for the stack: what the test above is there for."""
    program = f"""
import faulthandler, os, signal, time
for number in {[int(number) for number in HARMLESS]}:
    signal.signal(number, lambda *_: None)
faulthandler.enable(2)
print(flush=True)
while True:
    time.sleep(1)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        at_once(process.pid, [int(number) for number in HARMLESS])
        assert process.wait(10) == -signal.SIGSEGV
