"""`holdfast check` for one app, in an interpreter of its own: import it as the spawner would, and tell what was found.

Invariant: stdout carries exactly one line, the result as JSON, whatever the app prints (that goes to stderr); and the
process ends then, whatever threads the import has left running.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import msgspec

from supervisor.config.settings import AppSettings, Interface
from supervisor.errors import AppError, SurroundingsError
from supervisor.serve.edge.tls import load_tls
from supervisor.spawner.importing import load_app, load_function, load_hooks, prepare


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """`reason` is empty when the app could be imported; otherwise one line, and nothing else is meant."""

    reason: str = ""
    interface: Interface | None = None
    threads: tuple[str, ...] = ()  # names of the threads that the import left running
    seconds: float = 0.0


def check_app(settings: AppSettings, home: str) -> CheckResult:
    """Import the app in this process, from this directory; its traceback goes to stderr."""
    try:
        load_tls(settings)
        prepare(settings, home)
        load_hooks(settings)
        for hook in (settings.before_roll, settings.after_commit, settings.after_rollback):
            if isinstance(hook, str):
                load_function(hook)
        loaded = load_app(settings)
    except (AppError, SurroundingsError) as error:
        return CheckResult(reason=str(error))
    return CheckResult(interface=loaded.interface, threads=loaded.threads, seconds=loaded.seconds)


def main() -> NoReturn:
    """Read the app's settings as JSON from stdin, its directory from the command line; the result goes to stdout."""
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=AppSettings)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    answer = os.dup(1)
    os.dup2(2, 1)
    result = check_app(settings, sys.argv[1])
    sys.stdout.flush()
    os.write(answer, msgspec.json.encode(result) + b"\n")
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
