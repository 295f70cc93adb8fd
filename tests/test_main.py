"""The entry points: whose package this is, and how errors reach a person."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import supervisor
from supervisor import __main__ as entry
from supervisor.errors import SettingsError, UserError
from tests.cli.running import holdfast, python

CODE = "import sys; from supervisor.__main__ import {}; sys.exit({}())"


def pretend_installed(site: Path) -> None:
    """What pip leaves in an environment for PyPI's supervisor, as far as its metadata goes."""
    (site / "supervisor-4.3.0.dist-info").mkdir(parents=True)
    (site / "supervisor-4.3.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: supervisor\n")


@pytest.mark.parametrize(("program", "function"), [("holdfast", "main"), ("holdfastctl", "ctl")])
def test_the_other_supervisor_in_the_environment_is_told_in_one_line(
    program: str, function: str, tmp_path: Path
) -> None:
    pretend_installed(tmp_path / "site")
    done = python("-c", CODE.format(function, function), cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"{program}: the package supervisor ({tmp_path}/site/supervisor) is installed")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_it_is_told_also_when_its_files_lie_over_ours(tmp_path: Path) -> None:
    ours = tmp_path / "site" / "supervisor"
    shutil.copytree(Path(supervisor.__file__).parent, ours, ignore=shutil.ignore_patterns("__pycache__"))
    (ours / "__init__.py").write_text("#\n")
    (ours / "errors.py").write_text("raise ImportError('not ours')\n")
    (ours / "options.py").write_text("import tempfile\n")
    pretend_installed(tmp_path / "site")
    done = holdfast("--version", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 2
    assert done.stderr.startswith("holdfast: the package supervisor ")
    assert "venv of its own" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_its_removal_leaves_of_ours_is_told_in_one_line(tmp_path: Path) -> None:
    ours = tmp_path / "site" / "supervisor"
    shutil.copytree(Path(supervisor.__file__).parent, ours, ignore=shutil.ignore_patterns("__pycache__"))
    (ours / "__init__.py").write_text("")
    done = holdfast("--version", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 2
    assert done.stderr == (
        f"holdfast: files of holdfast are missing in {ours}; pip uninstall supervisor removes some of them: "
        f"pip install --force-reinstall holdfast\n"
    )


@pytest.mark.parametrize(("program", "function"), [("holdfast", "main"), ("holdfastctl", "ctl")])
def test_it_is_told_also_when_it_hides_ours(program: str, function: str, tmp_path: Path) -> None:
    (tmp_path / "site" / "supervisor").mkdir(parents=True)
    (tmp_path / "site" / "supervisor" / "__init__.py").write_text("#\n")
    code = f"import sys; from holdfast import {function}; sys.exit({function}())"
    done = python("-P", "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"{program}: another package named supervisor ({tmp_path}/site/supervisor/__init__.py)"
    )
    assert done.stderr.count("\n") == 1


def test_a_piece_that_is_missing_of_ours_is_not_blamed_on_others(tmp_path: Path) -> None:
    (tmp_path / "site" / "supervisor").mkdir(parents=True)
    (tmp_path / "site" / "supervisor" / "__init__.py").write_text("")
    (tmp_path / "site" / "supervisor" / "__main__.py").write_text("import a_missing_dependency\n")
    done = python("-P", "-c", "import holdfast; holdfast.main()", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert "No module named 'a_missing_dependency'" in done.stderr
    assert "hides ours" not in done.stderr


def raising(error: BaseException) -> int:
    raise error


def test_a_users_mistake_is_a_line_each_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = SettingsError("a.toml", "x", "one"), SettingsError("a.toml", "y", "two")
    assert entry._run("holdfast", lambda: raising(SettingsError.joined([first, second]))) == 2
    assert entry._run("holdfast", lambda: raising(UserError("no"))) == 1
    assert capsys.readouterr().err == "holdfast: a.toml: x: one\nholdfast: a.toml: y: two\nholdfast: no\n"


def test_an_interrupt_ends_without_a_traceback() -> None:
    assert entry._run("holdfast", lambda: raising(KeyboardInterrupt())) == 130


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        entry._run("holdfast", lambda: raising(ZeroDivisionError()))


def test_a_reader_that_has_left_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m supervisor run --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.strip() in {"0", "1"}  # 0: all was written before the reader left


def test_importing_the_package_imports_nothing_else(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import supervisor; print(sorted(set(sys.modules) - before))"
    done = python("-P", "-c", code, cwd=tmp_path)
    assert done.stdout.strip() in {"['supervisor']", "['__future__', 'supervisor']"}


def test_the_master_is_spared_what_only_others_need() -> None:
    """What it costs stands in ARCHITECTURE.md: each of these is a part of a megabyte to several."""
    heavy = {"asyncio", "ctypes", "dataclasses", "difflib", "h11", "hashlib", "inspect", "ipaddress", "logging", "ssl"}
    code = (
        "import sys; import supervisor.master.__main__ as master; sys.argv[1:] = ['no number']; "
        f"assert master.main() == 2; print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "[]\n"
