"""The interactive shell: every line is a holdfastctl command.

Invariant: it knows no command of its own but `help`, `exit` and `quit`, and nothing but these (or the end of input)
ends it: a failed command, a master that went away and Ctrl-C lead back to the prompt.
"""

from __future__ import annotations

import cmd
import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence

HISTORY_LINES = 1000

Run = Callable[[list[str]], int]


class Shell(cmd.Cmd):
    """`run` executes one command line; `commands` and `targets` feed completion."""

    def __init__(self, run: Run, commands: Sequence[str], targets: Callable[[], Sequence[str]]) -> None:
        super().__init__()
        self._run = run
        self._commands = [*commands, "exit", "help", "quit"]
        self._targets = targets
        self.last_code = 0
        self.is_interactive = sys.stdin.isatty()
        self.prompt = "holdfast> " if self.is_interactive else ""

    def loop(self) -> int:
        """Read and run lines until the end. Returns the last command's exit code if nobody was at the keyboard."""
        with _history() if self.is_interactive else contextlib.nullcontext():
            while True:
                try:
                    self.cmdloop()
                except KeyboardInterrupt:
                    sys.stdout.write("\n")
                else:
                    return 0 if self.is_interactive else self.last_code

    def onecmd(self, line: str) -> bool:
        """Run one line; True ends the shell."""
        if line == "EOF":  # how cmd.Cmd spells the end of input
            if self.is_interactive:
                sys.stdout.write("\n")
            return True
        try:
            words = shlex.split(line)
        except ValueError as error:
            sys.stderr.write(f"holdfastctl: {error}\n")
            self.last_code = 2
            return False
        if not words:
            return False
        if words[0] in ("exit", "quit"):
            return True
        self.last_code = self._execute(words)
        return False

    def completenames(self, text: str, *_ignored: object) -> list[str]:
        """Commands that begin with `text`."""
        return [f"{name} " for name in self._commands if name.startswith(text)]

    def completedefault(self, text: str, *_ignored: object) -> list[str]:
        """Targets that begin with `text`; after `help`, commands too."""
        return [name for name in self._targets() if name.startswith(text)]

    def complete_help(self, text: str, *_ignored: object) -> list[str]:
        return self.completenames(text)

    def _execute(self, words: list[str]) -> int:
        if words[0] == "help":
            return self._run([*words[1:2], "--help"])
        if words[0].startswith("-"):
            sys.stderr.write(f"holdfastctl: {words[0]} belongs on holdfastctl's own command line; try `help`\n")
            return 2
        return self._run(words)


def history_path() -> str:
    """`$XDG_STATE_HOME/holdfast/history`, by default under `~/.local/state` (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "holdfast", "history")


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """The history of earlier shells, and ours added to it. A home that can't be written costs only that."""
    try:
        import readline
    except ImportError:  # a Python built without it still gets a shell, without history and completion
        yield
        return
    path = history_path()
    readline.set_completer_delims(" \t\n")  # not ":", which is within a target
    readline.set_history_length(HISTORY_LINES)
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            readline.write_history_file(path)
