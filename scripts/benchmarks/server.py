"""One server under measurement: started, asked whether it answers rightly, watched, and stopped with all it started.

Invariant: after `running` no process of the server is left, however it ended.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.environment import Environment, UnavailableError
from benchmarks.peers import Launch, Peer

APPS = Path(__file__).with_name("apps")
START_S = 30.0
STOP_S = 10.0


class Server:
    """A running server; `pid` is its first process, the ancestor of all the others."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, path: str, post_bytes: int = 0) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own. Raises `OSError` or `HTTPException`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            if post_bytes:
                connection.request("POST", path, body=b"x" * post_bytes)
            else:
                connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def tree(self) -> list[int]:
        """This server's processes, the first one first."""
        children: dict[int, list[int]] = {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                stat = Path("/proc", entry, "stat").read_text()
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
        found = [self.pid]
        for pid in found:  # grows as it goes
            found += children.get(pid, [])
        return found

    def cpu_seconds(self) -> float:
        """What its processes have used so far, proc_pid_stat(5)."""
        ticks = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(
    environment: Environment,
    peer: Peer,
    core: int | None,
    app: str,
    workers: int,
    threads: int,
    *,
    unasked: bool = False,
) -> Iterator[Server]:
    """Start a server, all its processes on one core if one is named. Raises `UnavailableError`.

    It has answered once by then, or, `unasked`, only accepts connections.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        launch = Launch(app, _free_port(), Path(folder), workers, threads)
        command = peer.command(environment, launch)
        pinned = command if core is None else ["taskset", "-c", str(core), *command]
        log = launch.home / "log"
        surroundings = os.environ | {"PYTHONPATH": str(APPS), "PATH": f"{environment.bin}:{os.environ.get('PATH', '')}"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                pinned, cwd=APPS, env=surroundings, stdout=output, stderr=output, start_new_session=True
            )
        server = Server(process, launch.port)
        try:
            _wait_until_listening(server, log, unasked)
            yield server
        finally:
            _stop(server)


def check(server: Server, path: str, post_bytes: int, expected: bytes) -> None:
    """Raises `UnavailableError` unless the server gives the right answer, byte for byte."""
    try:
        status, body = server.ask(path, post_bytes)
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"{path}: {error!r}") from error
    if (status, body) != (200, expected):
        raise UnavailableError(
            f"{path}: answered {status} with {len(body)} bytes, {body[:30]!r}; not {expected[:30]!r}"
        )


def _wait_until_listening(server: Server, log: Path, unasked: bool) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if unasked:
                socket.create_connection(("127.0.0.1", server.port), timeout=1.0).close()
            else:
                server.ask("/")
            return
        time.sleep(0.05)
    ended = server.process.returncode
    how = f"not ready within {START_S:.0f} s" if ended is None else f"ended with status {ended}"
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
    raise UnavailableError(f"{how}: {last[0][:200]}")


def _stop(server: Server) -> None:
    family = server.tree()
    server.process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.process.wait(STOP_S)
    for pid in family if server.process.poll() is None else family[1:]:
        _kill_if_ours(pid, session=server.pid)
    server.process.wait(STOP_S)


def _kill_if_ours(pid: int, session: int) -> None:
    """What is left of the server's own session; a pid that was given away since is left alone."""
    with contextlib.suppress(OSError):
        if os.getsid(pid) == session:
            os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
