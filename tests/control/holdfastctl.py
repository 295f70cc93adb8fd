"""holdfastctl in a process of its own, in a pipe or on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable

CTL = [sys.executable, "-c", "import sys; from supervisor.control.ctl import main; sys.exit(main())"]
# A session leader that opens a terminal gets it as its controlling one, and with it Ctrl-C (tty_ioctl(4)).
LEAD = "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execv(sys.argv[1], sys.argv[1:])"
INTERRUPT, END = b"\x03", b"\x04"  # Ctrl-C and Ctrl-D
ANSI = re.compile(r"\x1b\[[0-9;]*m")
Done = subprocess.CompletedProcess[str]
Ctl = Callable[..., Done]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return kept | {"TERM": "xterm-256color"} | more


def on_terminal(command: list[str], typed: str = "", **env: str) -> tuple[int, str]:
    """Run in a pseudo-terminal 120 columns wide, typing a line at each prompt; the exit code and what appeared."""
    keys = [line + (b"" if line in (INTERRUPT, END) else b"\n") for line in typed.encode().splitlines()]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", LEAD, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=environment(COLUMNS="120", **env),
    ) as process:
        os.close(theirs)
        try:
            seen = _converse(ours, keys)
        finally:
            os.close(ours)
    return process.returncode, seen.decode()


def _converse(terminal: int, keys: list[bytes]) -> bytes:
    seen = bytearray()
    answered, typed, quiet = 0, b"", 0
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        quiet += 1
        if select.select([terminal], [], [], 0.1)[0]:
            quiet = 0
            try:
                seen += os.read(terminal, 65536)
            except OSError:  # EIO: the other side is closed
                break
        if keys and seen.count(b"holdfast> ") > answered:
            answered += 1
            typed = keys.pop(0)
            os.write(terminal, typed)
        elif typed == INTERRUPT and quiet > 2:
            # A signal between the prompt and CPython's wait for a key is seen with the next key: people press again.
            os.write(terminal, typed)
            quiet = 0
    return bytes(seen)
