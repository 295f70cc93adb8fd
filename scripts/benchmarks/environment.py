"""The virtual environment of the servers under comparison, apart from the one holdfast is developed in.

Invariant: what can't be installed is `UnavailableError` with a one-line reason, never a broken comparison.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALL_S = 600


class UnavailableError(Exception):
    """A server (or a tool) that can't take part, and why, in one line."""


class Environment:
    """`.venv-bench` in the checkout, made when first needed; remove the folder to get new versions."""

    def __init__(self, path: Path = ROOT / ".venv-bench") -> None:
        self.path = path
        self.bin = path / "bin"

    def install(self, name: str, alternatives: tuple[tuple[str, ...], ...]) -> None:
        """Install the first of the alternatives that can be; nothing when that was done before."""
        if not alternatives:
            return
        stamp = self.path / "installed" / f"{name}-{_digest(alternatives)}"
        if stamp.exists():
            return
        if not (self.bin / "pip").exists():
            _run([sys.executable, "-m", "venv", str(self.path)], "python -m venv")
        print(f"installing {name} into {self.path.name} ..", file=sys.stderr, flush=True)
        for requirements in alternatives:
            try:
                _run([str(self.bin / "pip"), "install", "-q", "--disable-pip-version-check", *requirements], "pip")
                break
            except UnavailableError as error:
                reason = error
        else:
            raise UnavailableError(f"can't be installed: {reason}")
        stamp.parent.mkdir(exist_ok=True)
        stamp.touch()

    def compile_checkout(self) -> None:
        """pip compiles what it installs, but no checkout; compiling at each start would leave memory behind that the
        others do not have."""
        _run([str(self.bin / "python"), "-m", "compileall", "-q", str(ROOT / "supervisor")], "compileall")

    def go_program(self, source: Path) -> Path:
        """The program of one Go file, compiled unless that was done since the file changed."""
        go = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
        if go is None:
            raise UnavailableError("not installed (apt install golang-go)")
        program = self.path / f"{source.stem}-go"
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            _run([go, "build", "-o", str(program), str(source)], "go build")
        return program

    def version(self, distribution: str) -> str:
        """The installed version, or nothing when it is none of Python's."""
        code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
        found = subprocess.run([self.bin / "python", "-c", code], capture_output=True, text=True, check=False)
        return found.stdout.strip()

    def has_module(self, module: str) -> bool:
        code = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
        return subprocess.run([self.bin / "python", "-c", code], capture_output=True, check=False).returncode == 0


def _digest(alternatives: tuple[tuple[str, ...], ...]) -> str:
    """Changes with what is asked for, and with what holdfast itself needs."""
    asked = repr(alternatives).encode() + (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(asked).hexdigest()[:12]


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{what}: {error}") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()
        raise UnavailableError(f"{what}: {lines[-1]}")
