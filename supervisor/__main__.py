"""The two commands, `holdfast` and `holdfastctl`.

Invariant: nothing of ours is imported before it is known that the `supervisor` package here is ours alone; after that,
a user's mistake is told in one line, and only a defect shows a traceback.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable

import supervisor


def main() -> int:
    """`holdfast`: returns the exit code, or becomes the master."""
    return _run("holdfast", _holdfast)


def ctl() -> int:
    """`holdfastctl`: returns the exit code."""
    return _run("holdfastctl", _holdfastctl)


def _holdfast() -> int:
    if os.getpid() == 1 and "run" in sys.argv[1:2]:
        from supervisor.kernel.process import hold_back_stops

        hold_back_stops()
    from supervisor.cli.commands import main as run

    return run(sys.argv[1:])


def _holdfastctl() -> int:
    from supervisor.control.ctl import main as run

    return run(sys.argv[1:])


def _run(program: str, command: Callable[[], int]) -> int:
    foreign = _foreign_package()
    if foreign is not None:
        print(f"{program}: {foreign}", file=sys.stderr)
        return 2
    from supervisor.errors import UserError

    try:
        return command()
    except UserError as error:
        for line in str(error).splitlines():
            print(f"{program}: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _foreign_package() -> str | None:
    """What to tell when PyPI's `supervisor` is, or was, in this environment: its files lie over ours."""
    try:
        found = importlib.metadata.distribution("supervisor")
    except importlib.metadata.PackageNotFoundError:
        if hasattr(supervisor, "__version__"):
            return None
        return (
            f"files of holdfast are missing in {os.path.dirname(__file__)}; pip uninstall supervisor removes some of "
            f"them: pip install --force-reinstall holdfast"
        )
    return (
        f"the package supervisor ({found.locate_file('supervisor')}) is installed in this environment and shares our "
        f"import name: install holdfast in a venv of its own, or run pip uninstall supervisor and reinstall holdfast"
    )


if __name__ == "__main__":
    sys.exit(main())
