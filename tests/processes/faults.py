"""All faults for `tests.processes.surroundings`: processes that do not run, limits, full disks, clients, clocks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

from supervisor.control.client import ControlClient
from tests.processes.cluster import POLL, until
from tests.processes.deeds import ready
from tests.processes.load import ROOT
from tests.processes.surroundings import WORKERS, Fault, SkippedError, Stage, stopped
from tests.small_disk import filled, small_disk

STOPPED_S = 10.0
ATTACK_S = 6.0
HOSTILE_CLIENTS = 200
OPERATOR_S = 10.0
NO_FORK = "fork: Resource temporarily unavailable"
GROUPS = Path("/sys/fs/cgroup")

# Processes that do not run


def stop_a_worker(stage: Stage) -> None:
    with stopped(stage.some_worker()):
        time.sleep(STOPPED_S)


def stop_the_spawner(stage: Stage) -> None:
    with stopped(stage.spawner()):
        time.sleep(STOPPED_S)


def hang_the_spawner(stage: Stage) -> None:
    """For good: nobody continues it, and a worker is to be forked."""
    pid = stage.spawner()
    os.kill(pid, signal.SIGSTOP)
    os.kill(stage.some_worker(), signal.SIGKILL)
    until("another spawner", lambda: pid not in stage.cluster.processes(), 30.0)


def stop_the_master(stage: Stage) -> None:
    with stopped(stage.cluster.pid):
        time.sleep(STOPPED_S)


def suspend(stage: Stage) -> None:
    before = stage.pids()
    with stopped(stage.cluster.pid, *(pid for pid in stage.cluster.processes() if pid != stage.cluster.pid)):
        time.sleep(STOPPED_S)
    time.sleep(2.0)  # for whoever would be blamed
    assert stage.pids() == before, "workers were replaced"


def ignore_term(stage: Stage) -> None:
    """A worker that no TERM reaches and that is blocked has to leave, first by a restart and then by a roll."""
    slot = stage.cluster.workers()[0]
    stage.ask("/block?30")
    os.kill(slot["pid"], signal.SIGTERM)
    assert stage.cluster.roll()["verdict"] == "committed"
    blocked = [pid for pid, title in stage.cluster.processes().items() if " g1 w" in title]
    until("the old release gone", lambda: not set(blocked) & stage.cluster.processes().keys())


# Limits


@contextlib.contextmanager
def limited(pids: list[int], kind: int, most: int) -> Iterator[None]:
    """A soft limit, lowered meanwhile (prlimit(2))."""
    before = {pid: resource.prlimit(pid, kind) for pid in pids}
    for pid, (_soft, hard) in before.items():
        resource.prlimit(pid, kind, (most, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, kind, limits)


def descriptors_of_a_worker(stage: Stage) -> None:
    pid = stage.some_worker()
    with limited([pid], resource.RLIMIT_NOFILE, len(os.listdir(f"/proc/{pid}/fd"))):
        began, used = time.monotonic(), cpu_seconds(pid)
        time.sleep(4.0)
        share = (cpu_seconds(pid) - used) / (time.monotonic() - began)
    stage.remarks.append(f"it used {share:.0%} of a CPU meanwhile")
    assert share < 0.8, f"the worker spins: {share:.0%} of a CPU"


def descriptors_of_the_master(stage: Stage) -> None:
    pid, victim = stage.cluster.pid, stage.some_worker()
    with limited([pid], resource.RLIMIT_NOFILE, 8):  # what a dead worker leaves free is above that
        os.kill(victim, signal.SIGKILL)
        began, used = time.monotonic(), cpu_seconds(pid)
        time.sleep(4.0)
        share = (cpu_seconds(pid) - used) / (time.monotonic() - began)
    stage.remarks.append(f"it used {share:.0%} of a CPU meanwhile")
    assert share < 0.5, f"the master spins: {share:.0%} of a CPU"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def control_group(kind: str, pid: int, **limits: str) -> Iterator[None]:
    """A control group of its own for one process, of version 1; it goes back to where it was."""
    group = GROUPS / kind / f"holdfast-chaos-{os.getpid()}"
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    home = next((line.split(":", 2)[2] for line in lines if kind in line.split(":")[1].split(",")), None)
    try:
        if home is None:
            raise OSError(f"there is no hierarchy of {kind}")
        group.mkdir()
    except OSError as error:
        raise SkippedError(f"no control group can be made: {error}") from None
    try:
        for name, value in limits.items():
            (group / f"{kind}.{name}").write_text(value)
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        until("the group empty", lambda: _empty(group, GROUPS / kind / home.lstrip("/")))


def _empty(group: Path, home: Path) -> bool:
    for pid in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            (home / "cgroup.procs").write_text(pid)
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


def no_more_processes(stage: Stage) -> None:
    """The spawner can't fork, for as long as a worker is missing."""
    victim = stage.some_worker()
    with control_group("pids", stage.spawner(), max="1"):
        os.kill(victim, signal.SIGKILL)
        stage.wait_until_told(NO_FORK, 15.0)
        time.sleep(3.0)


def no_more_memory(stage: Stage) -> None:
    """A worker that grows past what its group may have is killed by the kernel."""
    pid = stage.some_worker()
    with control_group("memory", pid, limit_in_bytes=str(192 * 2**20)):
        time.sleep(2.0)  # so long it has been there when the master looks where it is
        until("it took the request", lambda: _grow(stage, pid))


def _grow(stage: Stage, pid: int) -> bool:
    stage.ask("/grow?300")  # a sibling may take it, and has the room
    time.sleep(0.3)
    return pid not in stage.cluster.processes()


# Disks and readers


def no_room_for_logs(stage: Stage) -> None:
    """RLIMIT_FSIZE stands for a full disk: the log and the access log can't grow any more (EFBIG)."""
    cluster, victim = stage.cluster, stage.some_worker()
    full = min(os.stat(cluster.folder / name).st_size for name in ("stderr", "access"))
    with limited(list(cluster.processes()), resource.RLIMIT_FSIZE, full):
        os.kill(victim, signal.SIGKILL)
        time.sleep(4.0)
    until("it is told", lambda: "dropped: stderr: File too large" in provoke_a_line(stage))


@contextlib.contextmanager
def a_small_disk(folder: Path) -> Iterator[dict[str, str]]:
    """For the control socket and what is kept beside it."""
    with contextlib.ExitStack() as opened:
        try:
            opened.enter_context(small_disk(folder / "small", 512 * 1024))
        except OSError as error:
            raise SkippedError(error.strerror) from None
        yield {}


def no_room_for_reports(stage: Stage) -> None:
    """Nor for more of the state than it has reserved: also rolls, upgrades and a new master come to pass meanwhile."""
    disk = stage.cluster.folder / "small"
    with filled(disk):
        os.kill(stage.some_worker(), signal.SIGSEGV)
        stage.wait_until_told(f"a crash report can't be written to {disk}/control.crashes: No space left on device")
        assert stage.cluster.roll()["verdict"] == "committed"
        assert stage.cluster.ctl("upgrade").returncode == 0
        replace_the_master(stage)
    os.kill(stage.some_worker(), signal.SIGSEGV)
    until("the report of it", lambda: len(list((disk / "control.crashes").glob("*.json"))) == 1)


def no_room_for_the_state(stage: Stage) -> None:
    """Somebody has removed what held the room for it."""
    cluster = stage.cluster
    Path(f"{cluster.control}.state.new").unlink()
    with filled(cluster.folder / "small"):
        os.kill(stage.some_worker(), signal.SIGKILL)
        stage.wait_until_told(f"{cluster.control}.state can't be written: No space left on device")
        until("all workers", lambda: ready(cluster, WORKERS))
        assert cluster.ctl("upgrade").returncode == 0, "for which no disk is needed"
    stage.wait_until_told(f"{cluster.control}.state is up to date again")
    replace_the_master(stage)


def replace_the_master(stage: Stage) -> None:
    """Kill it, and start another, which has to adopt all workers."""
    cluster = stage.cluster
    until("all workers", lambda: ready(cluster, WORKERS))
    before = stage.pids()
    cluster.kill(signal.SIGKILL)
    cluster.wait_exit()
    cluster.start().wait_ready()
    assert stage.pids() == before, "not all were adopted"


def provoke_a_line(stage: Stage) -> str:
    stage.ask("/complain?hello")
    time.sleep(10 * POLL)
    return stage.cluster.log


@contextlib.contextmanager
def unread_stdout(folder: Path) -> Iterator[dict[str, str]]:
    """stdout is a pipe that somebody holds open and nobody reads."""
    path = folder / "stdout"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield {}
    finally:
        os.close(reader)


def stall_the_reader(stage: Stage) -> None:
    pipe = os.open(stage.cluster.folder / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    try:
        until("the pipe full", lambda: _waiting_bytes(pipe) > 30_000)
        before = stage.load.snapshot().ok
        until("answers all the same", lambda: stage.load.snapshot().ok > before + 500)
        with contextlib.suppress(BlockingIOError):
            while os.read(pipe, 65536):
                pass
    finally:
        os.close(pipe)


def _waiting_bytes(pipe: int) -> int:
    size = fcntl.ioctl(pipe, 0x541B, b"\0" * 4)  # FIONREAD
    return int(struct.unpack("i", size)[0])


# Clients of the control socket


def hostile_clients(stage: Stage) -> None:
    """Crowds of them, in spite of which the operator gets in, and a worker that dies is replaced at once."""
    command = [sys.executable, "-m", "tests.processes.hostile_clients", stage.cluster.control]
    command += [str(HOSTILE_CLIENTS), str(ATTACK_S), str(stage.seed)]
    waits = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as crowd:
        assert crowd.stdout is not None
        crowd.stdout.readline()
        while crowd.poll() is None:
            began = time.monotonic()
            assert ControlClient(stage.cluster.control, timeout=OPERATOR_S).status().state == "running"
            waits.append(time.monotonic() - began)
    stage.remarks.append(f"an operator's question among {HOSTILE_CLIENTS} took {max(waits):.1f} s at most")


# Clocks

CLOCK = """
    import os, time
    _real, _path = time.time, os.environ["HOLDFAST_TEST_CLOCK"]
    def jumped() -> float:
        return _real() + os.stat(_path).st_size * 3600 - 48 * 3600
    time.time = jumped
    time.time_ns = lambda: int(jumped() * 1e9)
"""


@contextlib.contextmanager
def a_clock_to_set(folder: Path) -> Iterator[dict[str, str]]:
    """Python's wall clock, in every process of the cluster, is off by what a file says: an hour for each byte over 48.

    The machine's own clock is not touched.
    """
    site = folder / "clock"
    site.mkdir()
    (site / "sitecustomize.py").write_text(textwrap.dedent(CLOCK))
    (site / "offset").write_bytes(bytes(48))
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    yield {"PYTHONPATH": path, "HOLDFAST_TEST_CLOCK": str(site / "offset")}


def set_the_clock(stage: Stage) -> None:
    before = stage.pids()
    for hours in (48, -48, 1, 0):
        with (stage.cluster.folder / "clock" / "offset").open("r+b") as file:
            file.truncate(48 + hours)
        assert stage.cluster.roll()["verdict"] == "committed", "a roll while the clock is off"
        time.sleep(1.5)
    assert not set(before) & set(stage.pids()), "the rolls replaced everybody"
    exits = [line for line in stage.cluster.log.splitlines() if "worker.exited" in line and "drained" not in line]
    assert not exits, exits
    stamps = {line[:10] for line in stage.cluster.log.splitlines() if line[:4].isdigit()}
    assert len(stamps) >= 3, f"the clock did not jump: {stamps}"


FAULTS = (
    Fault("a worker stopped for 10 s", stop_a_worker),
    Fault("the spawner stopped for 10 s", stop_the_spawner, blames=False),
    Fault("the spawner hangs for good", hang_the_spawner, told="spawner", may_lose=8),
    Fault("the master stopped for 10 s", stop_the_master, blames=False),
    Fault("the machine suspended for 10 s", suspend, blames=False),
    Fault(
        "a blocked worker that TERM does not end",
        ignore_term,
        told="still there 3 s after its drain timeout",
        may_lose=8,
        options=("--drain-timeout", "1"),
    ),
    Fault("no descriptors left in a worker", descriptors_of_a_worker, blames=False),
    Fault("no descriptors left in the master", descriptors_of_the_master, told="open files", may_lose=8),
    Fault(
        "no more processes: the spawner can't fork",
        no_more_processes,
        told="fork: Resource temporarily unavailable",
        may_lose=8,
    ),
    Fault(
        "no more memory: the kernel kills a worker", no_more_memory, told="sent by the kernel's OOM killer", may_lose=8
    ),
    Fault(
        "no room for logs",
        no_room_for_logs,
        told="dropped: stderr: File too large",
        at_most=2,
        may_lose=8,
        options=("--access-log", "access"),
    ),
    Fault(
        "no room for crash reports, nor for the state",
        no_room_for_reports,
        told="a crash report can't be written to",
        at_most=3,  # once by each master
        may_lose=16,
        control="small/control.sock",
        before=a_small_disk,
    ),
    Fault(
        "no room for the state, and none reserved",
        no_room_for_the_state,
        told="can't be written: No space left on device",
        at_most=2,
        may_lose=8,
        control="small/control.sock",
        before=a_small_disk,
    ),
    Fault("an access log on a full disk", lambda stage: time.sleep(3.0), options=("--access-log", "/dev/full")),
    Fault(
        "nobody reads stdout",
        stall_the_reader,
        options=("--access-log", "-"),
        before=unread_stdout,
        blames=False,
    ),
    Fault("hostile clients of the control socket", hostile_clients, blames=False),
    Fault("the clock set forwards and backwards", set_the_clock, before=a_clock_to_set),
)
