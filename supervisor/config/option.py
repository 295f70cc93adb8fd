"""What an option is: one row of the table in `options`."""

from __future__ import annotations

from typing import Literal

import msgspec

from supervisor.config.values import Parser

Section = Literal["app", "supervisor"]


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `default` is how people read it; the value itself stands in the settings record."""

    key: str
    flags: tuple[str, ...]  # empty: the APP argument
    section: Section
    group: str  # the heading in --help
    parse: Parser
    metavar: str
    default: str
    help: str
    repeatable: bool = False

    @property
    def flag(self) -> str:
        """The long flag, or the argument's name: how messages call it."""
        return self.flags[-1] if self.flags else self.metavar

    @property
    def setting(self) -> str:
        """How the option is written in the TOML file."""
        if self.key in ("env", "credentials"):
            return f"{self.key} = {{..}}"
        return f"{self.key} = [..]" if self.repeatable else self.key
