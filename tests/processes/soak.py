"""A long load on one cluster with a random deed every few seconds, and what it comes to.

Invariants: deeds are drawn by a seed alone, so that a run can be had again. After each the cluster has to be whole, and
what clients lost meanwhile is entered under that deed. The size of the master and the cluster is measured only when all
is calm and as many workers are there as in the beginning, so that like is compared with like.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes.cluster import Cluster, until
from tests.processes.deeds import HERE, kill_spawner, ready, spawners
from tests.processes.load import Load, Report

WORKERS = 4
MOST_WORKERS = 6
BLOCK_S = 1.5
STOP_S = 2.0
AWAY_S = 2.0  # at most, between one master and the next
WHOLE_S = 60.0
PATIENCE_S = 900.0  # of the load, and with what other work on the machine keeps from running
CLIENT_STALL_S = 15.0  # head_timeout; body_timeout is longer
REST_S = (3.0, 9.0)
SETTLE_S = 2.0  # from being whole to being measured: what leaves has left
ARGUMENTS = ("-w", str(WORKERS), "--keep-previous", "off", "--env", "ANSWER_SECONDS=0.08")

ACCIDENTS = (AssertionError, OSError, IndexError, subprocess.TimeoutExpired)

Deed = Callable[[Cluster, random.Random], None]


@dataclass(frozen=True)
class Kind:
    """A deed: how often it is drawn, and whether it kills (-9) somebody who has requests under way."""

    name: str
    weight: int
    do: Deed
    kills: bool = False


@dataclass
class Entry:
    """One deed and what came of it."""

    deed: str
    at_s: float
    whole_after_s: float
    clients: Report

    @property
    def is_the_clients_own(self) -> bool:
        """The load itself did not run for longer than a server waits for the rest of a request."""
        return self.clients.client_stall_s > CLIENT_STALL_S


@dataclass(frozen=True)
class Size:
    """How big everything is, at one calm moment with WORKERS workers."""

    at_s: float
    master_rss: int
    master_fds: int
    cluster_anon: int  # PSS of anonymous memory: of files, a part depends on who else has them mapped
    cluster_fds: int
    processes: int


@dataclass
class Soak:
    """All that the report tells. `clients` is the whole load; `killed` and `told_lost` are as the events have it."""

    seed: int
    entries: list[Entry] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    seconds: float = 0.0
    clients: Report = field(default_factory=Report)
    killed: int = 0
    told_lost: int = 0
    pauses: list[float] = field(default_factory=list)  # seconds that the soak itself did not run: the machine's doing
    stopped_by_others: int = 0  # times a process of the cluster was found stopped by a signal that was not ours
    spoiled: list[str] = field(default_factory=list)  # deeds that such a stop has kept from their end
    failures: list[str] = field(default_factory=list)
    log: bytes = field(default=b"", repr=False)

    @property
    def disturbances(self) -> int:
        return len(self.pauses) + self.stopped_by_others


# What is done


def roll(cluster: Cluster, _chance: random.Random) -> None:
    verdict = cluster.roll()
    assert verdict["verdict"] == "committed", verdict


def bad_roll(cluster: Cluster, _chance: random.Random) -> None:
    source = cluster.folder / "deeds_app.py"
    good = source.read_text()
    source.write_text("import no_such_module\n")
    try:
        verdict = cluster.roll()
    finally:
        source.write_text(good)
    assert verdict["verdict"] == "rolled_back", verdict


def upgrade(cluster: Cluster, _chance: random.Random) -> None:
    done = cluster.ctl("upgrade")
    assert done.returncode == 0, done.stderr


def kill_worker(cluster: Cluster, chance: random.Random) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(cluster.workers())["pid"], signal.SIGKILL)


def kill_the_spawner(cluster: Cluster, _chance: random.Random) -> None:
    kill_spawner(cluster)


def kill_master(cluster: Cluster, chance: random.Random) -> None:
    """And start another, which finds the workers serving."""
    cluster.kill(signal.SIGKILL)
    cluster.wait_exit()
    time.sleep(chance.uniform(0.0, AWAY_S))
    cluster.start().wait_ready(WHOLE_S)


def scale(cluster: Cluster, chance: random.Random) -> None:
    """To another number, and back."""
    for count in (chance.choice([WORKERS - 2, WORKERS - 1, WORKERS + 1, MOST_WORKERS]), WORKERS):
        assert cluster.ctl("scale", "web", str(count)).returncode == 0
        until(f"{count} workers", lambda count=count: ready(cluster, count), WHOLE_S)  # type: ignore[misc]


def block(cluster: Cluster, _chance: random.Random) -> None:
    host, _, port = cluster.bind.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=WHOLE_S)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", f"/block?{BLOCK_S}")
        connection.getresponse().read()


def stop_and_continue(cluster: Cluster, chance: random.Random) -> None:
    _stopped(chance.choice(cluster.workers())["pid"])


def stop_master(cluster: Cluster, _chance: random.Random) -> None:
    _stopped(cluster.pid)


def _stopped(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOP_S)
        os.kill(pid, signal.SIGCONT)


KINDS = (
    Kind("roll", 4, roll),
    Kind("roll to a release that does not import", 1, bad_roll),
    Kind("upgrade of the master", 3, upgrade),
    Kind("kill -9 of a worker", 4, kill_worker, kills=True),
    Kind("kill -9 of the spawner", 1, kill_the_spawner),
    Kind("kill -9 of the master, and a new one", 2, kill_master),
    Kind("scale to 2, 3, 5 or 6 workers and back", 3, scale),
    Kind(f"an event loop blocked for {BLOCK_S:g} s", 2, block),
    Kind(f"a worker stopped for {STOP_S:g} s", 1, stop_and_continue),
    Kind(f"the master stopped for {STOP_S:g} s", 1, stop_master),
)


def draw(chance: random.Random, kinds: Sequence[Kind] = KINDS) -> Kind:
    """The next deed."""
    return chance.choices(kinds, [kind.weight for kind in kinds])[0]


# What is seen


def size(cluster: Cluster, at_s: float) -> Size:
    """Of all processes of the cluster, now. Raises `OSError` when one of them is just leaving."""
    pids = list(cluster.processes())
    return Size(
        at_s,
        master_rss=_kb(cluster.pid, "status", "VmRSS:"),
        master_fds=_open(cluster.pid),
        cluster_anon=sum(_kb(pid, "smaps_rollup", "Pss_Anon:") for pid in pids),
        cluster_fds=sum(map(_open, pids)),
        processes=len(pids),
    )


def _kb(pid: int, file: str, field_name: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(field_name):
            return int(line.split()[1]) * 1024
    return 0


def _open(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Lookout:
    """Notes, in a thread, when this process did not run, and who of the cluster is stopped by somebody else."""

    def __init__(self, cluster: Cluster, soak: Soak) -> None:
        self._cluster = cluster
        self._soak = soak
        self._ours = threading.Event()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Lookout:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Who is stopped meanwhile may have been stopped by us."""
        self._ours.set()
        try:
            yield
        finally:
            self._ours.clear()

    def _look(self) -> None:
        known: set[int] = set()
        last = time.monotonic()
        while not self._ends.wait(0.5):
            now = time.monotonic()
            if now - last > 2.0:
                self._soak.pauses.append(now - last)
            last = now
            stopped = {pid for pid in self._cluster.processes() if _state(pid) == "T"}
            if not self._ours.is_set() or len(stopped) > 1:  # we stop one at a time
                self._soak.stopped_by_others += len(stopped - known)
            known = stopped


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def wait_until_whole(cluster: Cluster, within_s: float = WHOLE_S) -> None:
    until("every slot served", lambda: ready(cluster, WORKERS), within_s)
    until("the app running", lambda: cluster.app().get("state") == "running", within_s)
    until("one spawner", lambda: len(spawners(cluster)) == 1, within_s)
    until("nobody else", lambda: len(cluster.processes()) == WORKERS + 2, within_s)


def run(folder: Path, seconds: float, seed: int, *, connections: int, tell: Callable[[str], None]) -> Soak:
    """A soak of so long in `folder`; what went wrong is in its `failures`. Ends early when the cluster is not whole."""
    soak = Soak(seed)
    for name in ("deeds_app.py", "echo_app.py"):
        shutil.copy(HERE / name, folder)
    with Cluster(folder, "deeds_app:app", *ARGUMENTS) as cluster, Lookout(cluster, soak) as lookout:
        load = Load(
            cluster.bind,
            connections=connections,
            fresh=0.4,
            pause_s=0.05,
            timeout_s=PATIENCE_S,
            patience_s=PATIENCE_S,
            max_seconds=seconds + 600,
        )
        with load:
            began = time.monotonic()
            try:
                _go_on(cluster, load, soak, lookout, began + seconds, tell)
            except ACCIDENTS as error:
                soak.failures.append(f"after {time.monotonic() - began:.0f} s: {error}"[:2000])
            soak.clients = load.stop()
            soak.seconds = time.monotonic() - began
        log = cluster.log
        if cluster.exit_code is not None:
            soak.failures.append(f"the master has ended with {cluster.exit_code}")
        if "Traceback" in log.replace("no_such_module", ""):
            soak.failures.extend(line for line in log.splitlines() if "Error" in line and "no_such_module" not in line)
        # By a kill: who leaves is told as information, and how an adopted worker ends its master can't know.
        exits = [line for line in log.splitlines() if " worker.exited " in line and " error " in line]
        soak.killed, soak.told_lost = len(exits), sum(event_lost(line) for line in exits)
        soak.log = (folder / "stderr").read_bytes()
    soak.failures += judge(soak)
    return soak


def event_lost(line: str) -> int:
    """How many requests a worker's end has cost, as the text log tells it."""
    words = line.replace(",", " ").split()
    return next((int(words[at - 1]) for at, word in enumerate(words) if word.startswith("request") and at), 0)


def _go_on(
    cluster: Cluster, load: Load, soak: Soak, lookout: Lookout, ends: float, tell: Callable[[str], None]
) -> None:
    chance = random.Random(soak.seed)
    began = time.monotonic()
    while (now := time.monotonic()) < ends:
        kind = draw(chance)
        load.window()
        disturbances = soak.disturbances
        try:
            with lookout.expecting():
                kind.do(cluster, chance)
            done = time.monotonic()
            wait_until_whole(cluster)
        except ACCIDENTS as error:
            if soak.disturbances == disturbances:
                raise
            soak.spoiled.append(f"at {now - began:.0f} s, {kind.name}: {error}"[:300])
            done = time.monotonic()
            wait_until_whole(cluster, PATIENCE_S)
        whole = time.monotonic()
        time.sleep(SETTLE_S)
        with contextlib.suppress(OSError):
            soak.sizes.append(size(cluster, whole - began))
        time.sleep(chance.uniform(*REST_S))
        entry = Entry(kind.name, now - began, whole - done, load.window())
        soak.entries.append(entry)
        tell(f"{entry.at_s:6.0f} s  {entry.deed}: whole after {entry.whole_after_s:.1f} s, {entry.clients.lost} lost")


# What it comes to


@dataclass(frozen=True)
class Growth:
    """A figure in the first and in the last quarter of the samples, medians, warm-up left out."""

    first: float
    last: float

    @property
    def share(self) -> float:
        return (self.last - self.first) / self.first if self.first else 0.0


WARM_UP = 0.1  # of the samples


def growth(values: Sequence[float]) -> Growth:
    """Of a series in the order of time. With less than eight samples there is nothing to compare."""
    kept = values[int(len(values) * WARM_UP) :]
    if len(kept) < 8:
        return Growth(0.0, 0.0)
    quarter = len(kept) // 4
    return Growth(statistics.median(kept[:quarter]), statistics.median(kept[-quarter:]))


def growths(sizes: Sequence[Size]) -> dict[str, Growth]:
    """Of each figure, by the name that the report gives it."""
    return {
        "the master's RSS, MiB": growth([each.master_rss / 2**20 for each in sizes]),
        "the master's descriptors": growth([each.master_fds for each in sizes]),
        "all processes' own memory, MiB": growth([each.cluster_anon / 2**20 for each in sizes]),
        "all processes' descriptors": growth([each.cluster_fds for each in sizes]),
        "processes": growth([each.processes for each in sizes]),
    }


TOLERATED = 0.03  # of growth: allocators keep what they once needed


def judge(soak: Soak) -> list[str]:
    """What must not be: losses that no kill accounts for, and growth."""
    kills = {kind.name for kind in KINDS if kind.kills}
    found = [
        f"{entry.clients.lost} lost at {entry.at_s:.0f} s ({entry.deed}): {entry.clients.losses[:3]}"
        for entry in soak.entries
        if entry.clients.lost and entry.deed not in kills and not entry.is_the_clients_own
    ]
    own = sum(entry.clients.lost for entry in soak.entries if entry.is_the_clients_own)
    if soak.clients.lost - own > soak.told_lost + soak.killed:  # one more may lie unread in the sockets of each
        found.append(f"{soak.clients.lost} lost, and {soak.killed} who were killed told of {soak.told_lost} only")
    for name, it in growths(soak.sizes).items():
        if it.share > TOLERATED:
            found.append(f"{name}: {it.first:.1f} in the first quarter, {it.last:.1f} in the last")
    return found


def markdown(soak: Soak, machine: str, date: str, version: str) -> str:
    """The report."""
    clients = soak.clients
    lines = [
        "# Soak",
        "",
        f"{date}, {soak.seconds / 60:.0f} minutes, seed {soak.seed}, holdfast {version}, on a {machine}.",
        "",
        f"One cluster of {WORKERS} workers, {clients.requests:,} requests ({clients.requests_per_s:.0f} a second), "
        f"fresh and kept-alive connections, GETs and POSTs; {len(soak.entries)} deeds drawn at random.",
        "",
        f"**{'Passed' if not soak.failures else 'Failed'}.** {clients.lost} requests were lost; {soak.killed} workers "
        f"were killed with -9, which told of {soak.told_lost} lost with them. p50 {1e3 * clients.p50_s:.0f} ms (the "
        f"app takes 80), p99 {1e3 * clients.p99_s:.0f} ms; longest silence {clients.longest_gap_s:.2f} s.",
        "",
        "| deed | times | lost | whole again after, median | longest |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in KINDS:
        entries = [entry for entry in soak.entries if entry.deed == kind.name]
        if entries:
            times = [entry.whole_after_s for entry in entries]
            lost = sum(entry.clients.lost for entry in entries)
            lines.append(
                f"| {kind.name} | {len(entries)} | {lost} | {statistics.median(times):.1f} s | {max(times):.1f} s |"
            )
    lines += ["", "| size, with 4 workers and nothing under way but the load | first quarter | last quarter |"]
    lines += ["| --- | ---: | ---: |"]
    lines += [f"| {name} | {it.first:.1f} | {it.last:.1f} |" for name, it in growths(soak.sizes).items()]
    lines += ["", *_disturbances(soak)]
    lines += [f"- Failure: {failure}" for failure in soak.failures]
    return "\n".join(lines).rstrip() + "\n"


def _disturbances(soak: Soak) -> list[str]:
    if not soak.pauses and not soak.stopped_by_others:
        return ["Nothing else disturbed the run."]
    longest = f"; the longest for {max(soak.pauses):.0f} s" if soak.pauses else ""
    return [
        f"Other work on the machine disturbed the run: the soak itself did not run {len(soak.pauses)} times for more "
        f"than 2 s{longest}; {soak.stopped_by_others} times a process of the cluster was found stopped by others. "
        f"It kept {len(soak.spoiled)} deeds from their end.",
        *(f"- {deed}" for deed in soak.spoiled),
        *(
            f"- At {it.at_s:.0f} s the load did not run for {it.clients.client_stall_s:.0f} s; then {it.clients.lost} "
            f"lost: {', '.join(str(loss['detail']) for loss in it.clients.losses)}"
            for it in soak.entries
            if it.is_the_clients_own and it.clients.lost
        ),
    ]
