from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from supervisor.kernel import process
from supervisor.kernel.process import Ended, open_pidfd, reap, send_signal
from tests.kernel.conftest import in_python, wait_for

# The child's own child outlives it and becomes ours; the first child is known, the orphan is not.
SUBREAPER = """
import json, os, time
from supervisor.kernel import process
process.become_subreaper()
read_end, write_end = os.pipe()
child = os.fork()
if child == 0:
    if (orphan := os.fork()) == 0:
        time.sleep(0.1)
        os._exit(7)
    os.write(write_end, str(orphan).encode())
    os._exit(3)
orphan = int(os.read(read_end, 20))
pidfd = process.open_pidfd(child)
while (ended := process.reap(pidfd)) is None:
    time.sleep(0.002)
found = []
while not found:
    time.sleep(0.002)
    found = process.reap_orphans(())
print(json.dumps([ended.code, [each.pid == orphan and each.code for each in found], process.reap_orphans(())]))
"""

KNOWN_FIRST = """
import json, os, time
from supervisor.kernel import process
known = os.fork()
if known == 0:
    os._exit(1)
pidfd = process.open_pidfd(known)
while not process._has_ended(pidfd):
    time.sleep(0.002)
unknown = os.fork()
if unknown == 0:
    os._exit(2)
other = process.open_pidfd(unknown)
while not process._has_ended(other):
    time.sleep(0.002)
early = process.reap_orphans({known})
code = process.reap(pidfd).code
late = [each.code for each in process.reap_orphans({known})]
print(json.dumps([len(early) + len(late), code, process.reap(other).code, late or [each.code for each in early]]))
"""

ALONE = """
import json
from supervisor.kernel import process
print(json.dumps(process.reap_orphans(())))
"""


@pytest.fixture
def pidfds() -> Iterator[list[int]]:
    """Pidfds to close at the end, after killing what still runs behind them."""
    opened: list[int] = []
    yield opened
    for pidfd in opened:
        send_signal(pidfd, signal.SIGKILL)
        reaped(pidfd)
        os.close(pidfd)


def start(script: str, pidfds: list[int]) -> tuple[int, int]:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ)
    pidfds.append(open_pidfd(pid))
    return pid, pidfds[-1]


def reaped(pidfd: int) -> Ended:
    ended: list[Ended | None] = [None]

    def has_ended() -> bool:
        ended[0] = reap(pidfd)
        return ended[0] is not None

    wait_for(has_ended)
    assert ended[0] is not None
    return ended[0]


def test_a_running_child_is_not_reaped(pidfds: list[int]) -> None:
    _pid, pidfd = start("exec sleep 60", pidfds)
    assert reap(pidfd) is None
    assert reap(pidfd) is None


@pytest.mark.parametrize("code", [0, 3, 255])
def test_an_exit_code_is_told(pidfds: list[int], code: int) -> None:
    pid, pidfd = start(f"exit {code}", pidfds)
    ended = reaped(pidfd)
    assert ended == Ended(pid=pid, code=code, signal=None)
    assert str(ended) == f"exit code {code}"
    assert ended.is_clean == (code == 0)


def test_a_killing_signal_is_told_by_its_name(pidfds: list[int]) -> None:
    pid, pidfd = start("exec sleep 60", pidfds)
    assert send_signal(pidfd, signal.SIGKILL)
    ended = reaped(pidfd)
    assert ended == Ended(pid=pid, code=None, signal=signal.SIGKILL)
    assert str(ended) == "killed by SIGKILL"
    assert not ended.is_clean


def test_signals_and_dumps_read_well() -> None:
    assert str(Ended(pid=1, code=None, signal=signal.SIGSEGV, dumped=True)) == "killed by SIGSEGV (core dumped)"
    assert str(Ended(pid=1, code=None, signal=signal.SIGRTMIN + 5)) == f"killed by signal {signal.SIGRTMIN + 5}"


def test_a_status_that_another_reader_took_is_an_end_all_the_same(pidfds: list[int]) -> None:
    pid, pidfd = start("exit 3", pidfds)
    os.waitpid(pid, 0)
    ended = reap(pidfd)
    assert ended is not None
    assert (ended.code, ended.signal) == (None, None)
    assert str(ended) == "exit status unknown: adopted"


def test_a_process_that_is_not_our_child_is_running_until_it_ends() -> None:
    pidfd = open_pidfd(os.getpid())
    assert reap(pidfd) is None
    os.close(pidfd)


def test_signalling_the_dead_is_false_and_harmless(pidfds: list[int]) -> None:
    _pid, pidfd = start("exit 0", pidfds)
    reaped(pidfd)
    assert send_signal(pidfd, signal.SIGTERM) is False


def test_a_pidfd_is_close_on_exec_and_needs_a_process(pidfds: list[int]) -> None:
    pid, pidfd = start("exit 0", pidfds)
    assert not os.get_inheritable(pidfd)
    reaped(pidfd)
    with pytest.raises(ProcessLookupError):
        open_pidfd(pid)


def test_a_subreaper_reaps_the_orphans_of_its_children() -> None:
    assert in_python(SUBREAPER) == [3, [7], []]


def test_a_known_child_is_left_to_its_own_reader() -> None:
    assert in_python(KNOWN_FIRST) == [1, 1, None, [2]]


def test_without_children_there_are_no_orphans() -> None:
    assert in_python(ALONE) == []


def test_a_spawned_process_has_a_session_of_its_own_and_the_descriptors_it_was_given(pidfds: list[int]) -> None:
    read, write = os.pipe()
    os.set_inheritable(read, True)  # what we hold by accident crosses nothing that is not named
    source = "import os; os.write(2, repr((os.getsid(0) == os.getpid(), os.path.realpath('/proc/self/fd/0'),"
    source += " os.environ['A'], os.fstat(1).st_ino == os.fstat(2).st_ino)).encode())"
    pid = process.spawn([sys.executable, "-I", "-S", "-c", source], {"A": "b"}, [write, write])
    pidfds.append(open_pidfd(pid))
    os.close(write)
    with os.fdopen(read) as told:
        assert told.read() == "(True, '/dev/null', 'b', True)"
    os.waitid(os.P_PIDFD, pidfds[-1], os.WEXITED | os.WNOWAIT)
    assert reap(pidfds[-1]) == Ended(pid=pid, code=0, signal=None)


def test_a_command_that_is_not_there_is_an_error_and_leaves_no_descriptor_open() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        process.spawn(["/nonexistent/command"], {}, [1, 2])
    assert os.listdir("/proc/self/fd") == before
