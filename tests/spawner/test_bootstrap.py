"""The bootstrap: what a release's own interpreter finds, what it is lent, and what it is told when it lacks something.

The interpreters are those of bare venvs, without anything installed but what a test writes into them.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from supervisor.messages.wire import ImportFailed, from_spawner
from supervisor.spawner import bootstrap

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
ROOT = Path(__file__).parents[2]
PROBE = "tests_probe"  # a module of ours, as far as the bootstrap knows


class Venv:
    """A bare venv."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        self.packages = next(folder.glob("lib/python3*/site-packages"))

    def install(self, name: str, version: str, text: str = "") -> None:
        """A package, with its metadata."""
        (self.packages / name).mkdir()
        (self.packages / name / "__init__.py").write_text(text)
        (self.packages / f"{name}-{version}.dist-info").mkdir()

    def run(self, module: str, *arguments: str, suffix: str = SUFFIX) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        command = [str(self.python), bootstrap.__file__, module, suffix, path, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")

    def probe(self, source: str, *arguments: str) -> object:
        """Run a module with this source for its `main`, which prints JSON."""
        (self.packages / f"{PROBE}.py").write_text(f"import json, sys\ndef main():\n    {source}\n    return 0\n")
        done = self.run(PROBE, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def bare(tmp_path: Path) -> Venv:
    return Venv(tmp_path / "venv")


def test_ours_and_what_it_needs_are_found_from_a_venv_that_has_nothing(bare: Venv) -> None:
    where = bare.probe(
        "import supervisor, supervisor.worker.process, msgspec; "
        "print(json.dumps([supervisor.__file__, msgspec.__file__, sys.argv[1:], sys.prefix]))",
        "some",
        "words",
    )
    import msgspec

    ours = str(ROOT / "supervisor" / "__init__.py")
    assert where == [ours, msgspec.__file__, ["some", "words"], str(bare.python.parents[1])]


def test_nothing_else_of_the_masters_can_be_imported(bare: Venv) -> None:
    source = (
        "import importlib.util as u; print(json.dumps([bool(u.find_spec(n)) for n in ('click', 'h11', 'holdfast')]))"
    )
    assert bare.probe(source) == [False, False, False]


def test_what_the_release_has_wins_over_what_it_would_be_lent(bare: Venv) -> None:
    bare.install("setproctitle", "9.9", "def setproctitle(t): ...\ndef setthreadtitle(t): ...\n")
    assert bare.probe("import setproctitle; print(json.dumps(setproctitle.__file__))") == str(
        bare.packages / "setproctitle" / "__init__.py"
    )


def test_a_package_named_supervisor_in_the_release_does_not_hide_ours(bare: Venv) -> None:
    bare.install("supervisor", "4.2.5", "raise ImportError('the wrong one')")
    assert bare.probe("import supervisor.errors as e; print(json.dumps(e.__file__))") == str(
        ROOT / "supervisor" / "errors.py"
    )


def test_an_interpreter_of_another_kind_is_lent_nothing_and_is_told_all_that_it_lacks(bare: Venv) -> None:
    done = bare.run(bootstrap.CHECK, "/", suffix=".cpython-27m.so")
    assert done.returncode == 1
    assert done.stderr == ""
    reason = json.loads(done.stdout)["reason"]
    assert "no msgspec, no setproctitle, no uvloop, no websockets, no zttp; install it there: pip install" in reason
    assert str(bare.python) in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("name", "version", "text", "said"),
    [
        ("websockets", "10.4", "", "websockets 10.4, but 13.1 or later is needed"),
        ("zttp", "0.1.0", "", "zttp 0.1.0, but one before 0.1 is needed"),
        ("uvloop", "1.0", "import no_such_thing", "uvloop without no_such_thing"),
        ("msgspec", "1.0", "raise ImportError('bad\\nELF')", "msgspec can't be imported (bad ELF)"),
    ],
)
def test_what_does_not_fit_is_told_with_what_is_needed(
    bare: Venv, name: str, version: str, text: str, said: str
) -> None:
    bare.install(name, version, text)
    done = bare.run("anything.else")
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_spawner_is_told_by_its_channel_in_a_message_of_the_wire() -> None:
    reason = "python /srv/ünder/python has not all"
    assert from_spawner(bootstrap.import_failed(reason)) == ImportFailed(reason)
    assert from_spawner(bootstrap.import_failed("x" * 100_000)) == ImportFailed("x" * 0xFFFF)


def test_an_older_python_is_told_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", bootstrap.CHECK, SUFFIX, ""])
    monkeypatch.setattr(bootstrap, "OLDEST_PYTHON", (9, 0))
    assert bootstrap.main() == 1
    assert "holdfast needs 9.0 or later" in json.loads(capsys.readouterr().out)["reason"]


def test_what_is_needed_is_what_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = dict(re.findall(r"^([\w-]+)(.*)$", "\n".join(project["dependencies"]), re.MULTILINE))
    for name, (at_least, below) in bootstrap.NEEDS.items():
        assert declared[name] == f">={at_least}" + (f",<{below}" if below else "")
    assert project["requires-python"] == ">={}.{}".format(*bootstrap.OLDEST_PYTHON)
