"""scripts/run and scripts/test on machines that lack something: one clear line with the remedy, and no work twice."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
TOOLS = ("bash", "basename", "cat", "cksum", "dirname", "env", "mkdir")


class Machine:
    """A copy of the checkout's scripts, and a PATH with nothing on it but a few tools and what a test puts there."""

    def __init__(self, root: Path) -> None:
        self.root = root / "checkout"
        self.bin = root / "bin"
        self.bin.mkdir(parents=True)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        for name in ("scripts", "app_template"):
            shutil.copytree(CHECKOUT / name, self.root / name)
        shutil.copy(CHECKOUT / "pyproject.toml", self.root)

    def put(self, path: Path, script: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{self.bin}/bash\n{script}\n")
        path.chmod(0o755)

    def put_venv(self) -> None:
        """A .venv whose pip only notes its arguments, and whose commands say how they were called."""
        venv = self.root / ".venv" / "bin"
        self.put(
            venv / "python",
            f'[ "$3" = install ] && echo "$@" >>{self.root}/pip.log && exit; exec {sys.executable} "$@"',
        )
        self.put(venv / "holdfast", 'echo "holdfast $* in $PWD as $$"')
        for name in ("ruff", "mypy", "lint-imports", "pytest"):
            self.put(venv / name, f'echo "{name} $*"; [ "$FAILING" != {name} ]')

    def run(
        self, script: str, *arguments: str, cwd: Path | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "scripts" / script, *arguments],
            cwd=cwd or self.root,
            env={"PATH": str(self.bin), "PIP_NO_INDEX": "1", "HOME": str(self.root), **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def installed(self) -> list[str]:
        log = self.root / "pip.log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("script", ["run", "test"])
def test_no_python_is_one_line_with_the_remedy(machine: Machine, script: str) -> None:
    done = machine.run(script)
    assert done.returncode == 1
    assert done.stderr == (
        f"{script}: no python3 here; install Python 3.11 or later: sudo apt install python3 python3-venv\n"
    )


def test_an_old_python_is_one_line_with_the_remedy(machine: Machine) -> None:
    machine.put(machine.bin / "python3", '[ "$1" = -V ] && echo Python 3.9.2 && exit; exit 1')
    done = machine.run("run")
    assert done.returncode == 1
    assert done.stderr.startswith("run: Python 3.11 or later is needed, and python3 is Python 3.9.2; ")
    assert done.stderr.count("\n") == 1


def test_a_newer_python_beside_an_old_one_is_found(machine: Machine) -> None:
    machine.put(machine.bin / "python3", "exit 1")
    machine.put(machine.bin / "python3.12", "exit 1")  # pyenv's shim of a version that is not active
    machine.put(
        machine.bin / "python3.11", f'[ "$2" = "import venv, ensurepip" ] && exit 1; exec {sys.executable} "$@"'
    )
    done = machine.run("run")
    assert done.returncode == 1
    assert "sudo apt install python3.11-venv" in done.stderr


def test_a_missing_venv_module_is_one_line_with_the_remedy(machine: Machine) -> None:
    machine.put(machine.bin / "python3", f'[ "$2" = "import venv, ensurepip" ] && exit 1; exec {sys.executable} "$@"')
    done = machine.run("run")
    assert done.returncode == 1
    assert done.stderr == "run: python3 has no venv module (or no pip to put into it): sudo apt install python3-venv\n"
    assert not (machine.root / ".venv").exists()


def test_an_unreachable_index_is_told_and_tried_again_the_next_time(machine: Machine) -> None:
    (machine.bin / "python3").symlink_to(sys.executable)
    done = machine.run("run")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("run: pip could not install holdfast; the reason stands above")
    assert not list((machine.root / ".venv").glob(".installed-*"))


def test_a_port_in_use_is_one_line_with_the_remedy(machine: Machine) -> None:
    machine.put_venv()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = machine.run("run", PORT=str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"run: port {port} is in use: ")
    assert f"PORT={port + 1} ./scripts/run" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_none_is_refused(machine: Machine) -> None:
    machine.put_venv()
    assert machine.run("run", PORT="http").stderr == "run: PORT is a port number, not 'http'\n"


def test_without_arguments_the_template_is_served_and_what_to_try_is_said(machine: Machine) -> None:
    machine.put_venv()
    port = free_port()
    done = machine.run("run", PORT=str(port))
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.splitlines()
    pid = last.rpartition(" ")[2]
    assert last == f"holdfast run -b 127.0.0.1:{port} in {machine.root}/app_template as {pid}"
    assert any(f"kill -USR2 {pid} " in line for line in said)  # the pid of the master, which exec keeps
    assert any("holdfastctl status" in line for line in said)
    assert any(f"curl http://127.0.0.1:{port}/" in line for line in said)


def test_arguments_are_passed_on_and_the_directory_is_kept(machine: Machine, tmp_path: Path) -> None:
    machine.put_venv()
    (tmp_path / "my project").mkdir()
    done = machine.run("run", "shop.asgi:app", "-w", "4", "--env", "A=two words", cwd=tmp_path / "my project")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith(
        f"holdfast run shop.asgi:app -w 4 --env A=two words in {tmp_path}/my project as "
    )


def test_nothing_is_installed_twice_until_the_requirements_change(machine: Machine) -> None:
    machine.put_venv()
    port = str(free_port())
    assert machine.run("run", PORT=port).returncode == 0
    assert machine.run("run", PORT=port).returncode == 0
    assert [line.split()[-2] for line in machine.installed()] == ["--editable", "-r"]
    with open(machine.root / "app_template" / "requirements.txt", "a") as file:
        file.write("redis\n")
    assert machine.run("run", PORT=port).returncode == 0
    assert len(machine.installed()) == 3
    with open(machine.root / "pyproject.toml", "a") as file:
        file.write("\n")
    assert machine.run("run", PORT=port).returncode == 0
    assert len(machine.installed()) == 4


def test_all_checks_run_and_what_measures_comes_last_and_alone(machine: Machine) -> None:
    machine.put_venv()
    done = machine.run("test")
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("== ")]
    assert steps == [
        "== ruff check .",
        "== ruff format --check .",
        "== mypy",
        "== mypy scripts/bench scripts/benchmarks",
        "== mypy scripts/roll_under_load",
        "== mypy scripts/torture scripts/torments",
        "== mypy scripts/chaos",
        "== mypy scripts/fuzzing",
        "== lint-imports",
        "== pytest -n 2 --ignore=tests/processes",
        "== pytest -n 3 -m not alone tests/processes",
        "== pytest -n 0 -m alone tests/processes",
    ]


@pytest.mark.parametrize("failing", ["ruff", "mypy", "lint-imports", "pytest"])
def test_a_failing_check_fails_the_whole(machine: Machine, failing: str) -> None:
    machine.put_venv()
    done = machine.run("test", FAILING=failing)
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1].startswith(failing)


def test_arguments_choose_the_tests(machine: Machine) -> None:
    machine.put_venv()
    assert machine.run("test", "tests/config", "-k", "size").stdout.splitlines()[-1] == "pytest tests/config -k size"


def test_the_scripts_can_be_executed() -> None:
    for name in ("scripts/run", "scripts/test", ".ci/run"):
        assert os.access(CHECKOUT / name, os.X_OK)
