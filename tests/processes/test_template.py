"""A new project as its owner runs it, from the shell and from Python, with real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.cli.running import holdfast

DEADLINE = 20.0

FIVE_LINES = """\
from supervisor import App, Supervisor

if __name__ == "__main__":
    raise SystemExit(Supervisor(App("app:app", workers=1, bind="{bind}", env={{"GREETING": "Embedded"}})).run())
"""


class Project:
    """A copy of the template that something serves on a port of its own."""

    def __init__(self, path: Path) -> None:
        assert holdfast("new", str(path), cwd=path.parent).returncode == 0
        self.path = path
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.bind = f"127.0.0.1:{server.getsockname()[1]}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.path.parent)}
        with open(self.path / "output", "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=self.path, env=environment, stdout=output, stderr=output
            )
        return self.process

    def output(self) -> str:
        return (self.path / "output").read_text()

    def wait_for(self, answer: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for `/` until its answer is right; fails with the process's output."""
        deadline = time.monotonic() + DEADLINE
        seen: object = None
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            try:
                found: dict[str, Any] = requests.get(f"http://{self.bind}/", timeout=5).json()
            except requests.ConnectionError as error:
                seen = error
            else:
                seen = found
                if answer(found):
                    return found
            time.sleep(0.02)  # between two looks
        raise AssertionError(f"{seen}\n{self.output()}")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path / "shop")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.send_signal(signal.SIGQUIT)
        try:
            made.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            made.process.kill()
            made.process.wait()


def test_a_new_project_serves_rolls_and_stops(project: Project) -> None:
    master = project.start("-m", "supervisor", "run", "-w", "1", "-b", project.bind)
    first = project.wait_for(lambda found: found["message"] == "Hello from holdfast")
    assert first["pid"] != master.pid
    app = project.path / "app.py"
    app.write_text(app.read_text().replace("from holdfast", "from the next release"))
    master.send_signal(signal.SIGUSR2)
    second = project.wait_for(lambda found: found["message"] == "Hello from the next release")
    assert second["pid"] != first["pid"]
    master.send_signal(signal.SIGTERM)
    assert master.wait(DEADLINE) == 0, project.output()
    assert "Traceback" not in project.output()


def test_a_stream_of_the_project_ends_with_its_worker_and_its_connection_does_not(project: Project) -> None:
    master = project.start("-m", "supervisor", "run", "-w", "1", "-b", project.bind)
    first = project.wait_for(lambda found: found["message"] == "Hello from holdfast")
    with requests.Session() as client:
        with client.get(f"http://{project.bind}/events", stream=True, timeout=DEADLINE) as events:
            lines = events.iter_lines(decode_unicode=True)
            assert (next(lines), next(lines)) == ("id: 1", f"data: {first['pid']}")
            master.send_signal(signal.SIGUSR2)
            ended = list(lines)
        assert {line for line in ended if line.startswith("data")} <= {f"data: {first['pid']}"}
        assert client.get(f"http://{project.bind}/", timeout=DEADLINE).json()["pid"] != first["pid"]
    assert "cut after" not in project.output()


def test_a_changed_settings_file_is_taken_by_a_roll_and_a_wrong_one_is_told_and_changes_nothing(
    project: Project,
) -> None:
    master = project.start("-m", "supervisor", "run", "-w", "1", "-b", project.bind)
    project.wait_for(lambda found: found["message"] == "Hello from holdfast")
    settings = project.path / "holdfast.toml"
    right = settings.read_text()
    settings.write_text(right.replace("ready_path", "redy_path"))
    master.send_signal(signal.SIGUSR2)
    deadline = time.monotonic() + DEADLINE
    while "[app.web] redy_path: unknown; did you mean ready_path?" not in project.output():
        assert time.monotonic() < deadline, project.output()
        time.sleep(0.02)
    project.wait_for(lambda found: found["message"] == "Hello from holdfast")
    settings.write_text(right.replace('GREETING = "Hello"', 'GREETING = "Good evening"'))
    master.send_signal(signal.SIGUSR2)
    project.wait_for(lambda found: found["message"] == "Good evening from holdfast")


def test_five_lines_of_python_serve_the_same(project: Project) -> None:
    (project.path / "serve.py").write_text(FIVE_LINES.format(bind=project.bind))
    program = project.start("serve.py")
    found = project.wait_for(lambda found: found["message"] == "Embedded from holdfast")
    assert found["pid"] != program.pid
    program.send_signal(signal.SIGTERM)
    assert program.wait(DEADLINE) == 0, project.output()
