"""`holdfast new`: a project of one's own, copied from the template that holdfast itself is shown with.

Invariant: nothing that exists is overwritten.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import click

from supervisor.errors import SurroundingsError

_HERE = Path(__file__).resolve()
_PLACES = (
    _HERE.parent / "app_template",  # in an installed wheel
    _HERE.parents[2] / "app_template",  # in a checkout
)
_LEFTOVERS = shutil.ignore_patterns("__pycache__", ".*_cache", ".venv", "*.pyc")


def create(directory: str) -> int:
    """Copy the template into `directory` and say what to do next. Raises `SurroundingsError`."""
    target = Path(directory)
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise SurroundingsError(f"{directory} exists and is not an empty directory; name another")
        shutil.copytree(_template(), target, ignore=_LEFTOVERS, copy_function=shutil.copyfile, dirs_exist_ok=True)
    except shutil.Error as error:
        source, _target, reason = error.args[0][0]
        raise SurroundingsError(f"can't copy {source} to {directory}: {reason}") from None
    except OSError as error:
        raise SurroundingsError(f"can't write {directory}: {error.strerror}") from None
    click.echo(f"A new project is in {directory}. Next:\n")
    for command in (f"cd {shlex.quote(directory)}", "python -m pip install -r requirements.txt", "holdfast run"):
        click.echo(f"    {command}")
    return 0


def _template() -> str:
    for place in _PLACES:
        if (place / "holdfast.toml").is_file():
            return os.fspath(place)
    raise SurroundingsError(f"this installation has no app_template ({_PLACES[0]}); reinstall holdfast")
