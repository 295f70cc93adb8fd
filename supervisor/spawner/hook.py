"""`python -m supervisor.spawner.hook HOME exec COMMAND..` or `HOME call TARGET`: what is run at a roll.

Invariant: a command finds the release's directory as its own and replaces this process; a function is imported as the
app is, in the release's interpreter, and its failure is an exit code of 1 behind its traceback.
"""

from __future__ import annotations

import os
import sys

from supervisor.errors import AppError
from supervisor.spawner.importing import enter, load_function, print_traceback


def main() -> int:
    """Returns the exit code."""
    home, kind, *what = sys.argv[1:]
    try:
        enter(home)
        if kind == "exec":
            os.execvp(what[0], what)  # noqa: S606  # the settings' own command, no shell
        function = load_function(what[0])
    except OSError as error:
        return _fail(f"{what[0]} can't be run: {error.strerror}")
    except AppError as error:
        return _fail(str(error))
    try:
        function()
    except Exception as error:
        print_traceback(error)
        return 1
    return 0


def _fail(reason: str) -> int:
    print(f"holdfast: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
