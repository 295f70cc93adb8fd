"""What holdfastctl prints: text for a person, coloured on a terminal, or JSON for a program.

Invariant: results go to stdout, complaints to stderr. Text from elsewhere is escaped, so that neither a name nor a
traceback can steer the terminal; without a terminal there is no colour, no spinner and no wrapping.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator

import click
import msgspec
from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

from supervisor.observe.render import escape

PIPE_WIDTH = 10_000  # columns, where nobody's window limits a line


class Terminal:
    """stdout and stderr, in one of two languages."""

    def __init__(self) -> None:
        self.as_json = False
        width = None if sys.stdout.isatty() else PIPE_WIDTH
        self._console = Console(highlight=False, markup=False, emoji=False, width=width)

    @property
    def width(self) -> int:
        """Columns that a line may have."""
        return self._console.width

    @property
    def has_colour(self) -> bool:
        return self._console.is_terminal and not self._console.no_color

    def say(self, text: str, style: str = "") -> None:
        """One line."""
        self._console.print(Text(escape(text), style=style), soft_wrap=True)

    def show(self, picture: RenderableType) -> None:
        """A table, or whatever else rich draws."""
        self._console.print(picture)

    def quote(self, lines: Iterable[str]) -> None:
        """Somebody else's lines, indented."""
        for line in lines:
            self.say(f"    {line.expandtabs()}", "dim")

    def json(self, value: object) -> None:
        """One object on one line, out at once."""
        click.echo(msgspec.json.encode(value))

    def raw(self, line: str) -> None:
        """A line that is rendered already, out at once."""
        click.echo(line, color=True)

    def note(self, text: str) -> None:
        """What is good to know beforehand, in one line on stderr."""
        click.echo(escape(text), err=True)

    def complain(self, text: str) -> None:
        """What went wrong, in one line, on stderr."""
        if self.as_json:
            click.echo(msgspec.json.encode({"error": text}), err=True)
        else:
            click.echo(f"holdfastctl: {escape(text)}", err=True)

    @contextlib.contextmanager
    def progress(self, text: str) -> Iterator[Callable[[str], None]]:
        """Something that turns beside `text` while the caller waits; it is handed a function that changes the text.

        Nothing shows where nobody would see it turn: in a pipe, or when JSON is asked for.
        """
        if self.as_json or not self._console.is_terminal:
            yield lambda _text: None
            return
        with Status(Text(escape(text)), console=self._console, spinner="line") as status:
            yield lambda text: status.update(Text(escape(text)))
