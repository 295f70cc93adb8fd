"""A real holdfast cluster for a test: started, watched, told things, and swept away whole.

Invariant: when the `with` block ends no process of the cluster is left, whatever the test did to it; `leftovers` says
which there were after a graceful stop, so that a test can insist on none. Processes are known by the folder they run
in, which no other test shares, and not by parentage: workers outlive spawners, and are re-parented on purpose.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

DEADLINE = 20.0  # seconds that anything may take before the test fails
POLL = 0.02

T = TypeVar("T")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def until(what: str, probe: Callable[[], T], deadline: float = DEADLINE) -> T:
    """Poll until `probe` gives something true; fails naming `what` and the last answer."""
    ends = time.monotonic() + deadline
    seen: object = None
    while time.monotonic() < ends:
        seen = probe()
        if seen:
            return seen
        time.sleep(POLL)
    raise AssertionError(f"not within {deadline:g} s: {what}; last seen: {seen!r}")


class Cluster:
    """`holdfast run ARGUMENTS` in `folder`, with a control socket and a port of its own.

    A first worker is baked for a moment only, unless the test is about that. With `bind=""` the settings file says
    where it listens, and how long it bakes; `pass_fds` are descriptors it inherits; `cwd` is another
    directory to start it in, below `folder`; `control` is where in it the control socket is.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        bind: str | None = None,
        bake: float = 0.1,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        cwd: Path | None = None,
        control: str = "control.sock",
    ) -> None:
        self.folder = folder.resolve()
        self.bind = f"127.0.0.1:{free_port()}" if bind is None else bind
        self.control = str(folder / control)
        self.command = [sys.executable, "-c", "import sys, holdfast; sys.exit(holdfast.main())", "run"]
        self.arguments = [*arguments, *(["--bind", self.bind, "--bake", str(bake)] if self.bind else [])]
        self.arguments += ["--control", self.control]
        self._pass_fds = pass_fds
        self._cwd = cwd or self.folder
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    # Life

    def start(self) -> Self:
        """Start it and return at once."""
        with (self.folder / "stdout").open("ab") as stdout, (self.folder / "stderr").open("ab") as stderr:
            self._process = subprocess.Popen(
                [*self.command, *self.arguments],
                cwd=self._cwd,
                env=self._env,
                stdout=stdout,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                pass_fds=self._pass_fds,
            )
        return self

    def wait_ready(self, deadline: float = DEADLINE) -> Self:
        """Until every slot of every app is served."""

        def ready() -> bool:
            assert self.exit_code is None, f"it ended with {self.exit_code}:\n{self.log}"
            status = self.status()
            if not status:
                return False
            return all(
                app["state"] == "running" and all(worker["state"] == "ready" for worker in app["workers"])
                for app in status["apps"].values()
            )

        until("all workers ready", ready, deadline)
        return self

    def __enter__(self) -> Self:
        return self.start().wait_ready()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:  # a test that has failed tells why, not that its cluster was slow to end
                self.stop()
        finally:
            self.kill_everything()

    def stop(self, deadline: float = DEADLINE) -> int:
        """TERM, and the exit code."""
        self.kill(signal.SIGTERM)
        return self.wait_exit(deadline)

    def kill(self, number: int) -> None:
        """Signal the master."""
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    def wait_exit(self, deadline: float = DEADLINE) -> int:
        assert self._process is not None
        try:
            return self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {deadline:g} s:\n{self.log}") from None

    def processes(self) -> dict[int, str]:
        """All live processes of this cluster, by pid, with their titles."""
        found = {}
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            try:
                where = Path(f"/proc/{pid}/cwd").readlink()
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if where.is_relative_to(self.folder):
                found[pid] = title
        return found

    def zombies(self) -> list[int]:
        """Ended but unreaped children of the master."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        states = {pid: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in children}
        return [int(pid) for pid, state in states.items() if state == "Z"]

    def leftovers(self) -> dict[int, str]:
        """Processes that outlived the master, after giving the kernel a moment to finish them."""
        ends = time.monotonic() + 1.0
        while (left := self.processes()) and time.monotonic() < ends:
            time.sleep(POLL)
        return left

    def kill_everything(self) -> None:
        until("all processes of the cluster gone", self._kill_round)
        if self._process is not None:
            self._process.wait(DEADLINE)

    def _kill_round(self) -> bool:
        left = self.processes()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self._process is not None:
            self._process.poll()
        return not left

    # Words

    @property
    def log(self) -> str:
        """All that the supervisor and the app's stderr have said."""
        return (self.folder / "stderr").read_text(errors="replace")

    @property
    def output(self) -> str:
        """All that came to stdout."""
        return (self.folder / "stdout").read_text(errors="replace")

    def ctl(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """`holdfastctl ARGUMENTS` against this cluster."""
        command = [*self.ctl_command, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    @property
    def ctl_command(self) -> list[str]:
        """`holdfastctl` against this cluster; arguments may follow."""
        return [sys.executable, "-c", "import sys, holdfast; sys.exit(holdfast.ctl())", "-s", self.control]

    def status(self) -> dict[str, Any]:
        """The contract's object; empty while no master answers."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5.0)
            try:
                client.connect(self.control)
                client.sendall(b"GET /status HTTP/1.1\r\nHost: .\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            except OSError:
                return {}
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            return {}
        found: dict[str, Any] = json.loads(body)
        return found

    def app(self, name: str = "web") -> dict[str, Any]:
        """One app of `status`."""
        status = self.status()
        app: dict[str, Any] = status["apps"][name] if status else {}
        return app

    def workers(self, name: str = "web") -> list[dict[str, Any]]:
        """The workers of one app that have a process and do not drain."""
        return [w for w in self.app(name).get("workers", []) if w["pid"] and w["state"] != "draining"]

    def events(self) -> Iterator[str]:
        """The supervisor's own lines of the text log."""
        for line in self.log.splitlines():
            if len(line) > 30 and line[:4].isdigit() and line[10] == "T":
                yield line

    def warnings(self) -> list[str]:
        """The supervisor's own warnings, but for the one that every cluster of root's begins with."""
        return [line for line in self.events() if " warning " in line and "runs as root" not in line]

    # Rolls

    def roll(self, number: int = signal.SIGUSR2) -> dict[str, Any]:
        """Send the signal, wait for the verdict, return it (`last_roll`)."""
        before = self.app()["last_roll"]
        self.kill(number)
        return self.wait_roll(before)

    def wait_roll(self, before: dict[str, Any] | None, deadline: float = 60.0) -> dict[str, Any]:
        """Until the roll after `before` has its verdict."""
        known = before["to"] if before else 0

        def decided() -> dict[str, Any] | None:
            roll: dict[str, Any] | None = self.app().get("last_roll")
            return roll if roll and roll["to"] > known and roll["verdict"] != "running" else None

        verdict = until("the roll's verdict", decided, deadline)
        assert verdict is not None
        return verdict
