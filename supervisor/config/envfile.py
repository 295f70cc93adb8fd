"""Environment files as systemd reads them: `NAME=VALUE` lines with quotes, escapes, comments and continued lines.

Invariant: what is read is secret. An error tells the number of a line and never a part of it.

Source: systemd.exec(5), `EnvironmentFile=`. What systemd skips with a warning is an error here; a comment ends with its
line, as since version 254.
"""

from __future__ import annotations

import re
from enum import Enum, auto

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_BLANK = " \t\r"
_ESCAPED_IN_QUOTES = '"\\`$'  # what a shell would escape there, too; before others a backslash is itself


class _At(Enum):
    LINE = auto()  # where a name may begin
    COMMENT = auto()
    NAME = auto()
    BEFORE = auto()  # a value, or one more quoted part of it
    VALUE = auto()
    SINGLE = auto()  # inside '..'
    DOUBLE = auto()  # inside ".."


def parse_env_file(text: str) -> dict[str, str]:
    """The variables of an environment file, in its order; the last of equal names wins.

    Raises `ValueError` with the number of the line.
    """
    before, nul, _after = text.partition("\0")
    if nul:
        raise ValueError(f"line {before.count(chr(10)) + 1}: text was expected, not a NUL byte")
    return _Reader().read(text)


class _Reader:
    """One pass over the text, a character at a time."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._at = _At.LINE
        self._line = 1
        self._opened = 0  # the line on which a quote was opened
        self._name: list[str] = []
        self._value: list[str] = []
        self._kept = 0  # so much of the value is not a blank at its end

    def read(self, text: str) -> dict[str, str]:
        characters = iter(text + "\n")
        for character in characters:
            if character == "\\" and self._at in (_At.BEFORE, _At.VALUE, _At.DOUBLE):
                character = next(characters, "\n")
                self._take_escaped(character)
            else:
                self._take(character)
            self._line += character == "\n"
        if self._at is not _At.LINE:
            raise ValueError(f"line {self._opened or self._line}: ends in the middle of a value")
        return self._found

    def _take(self, character: str) -> None:
        if self._at is _At.LINE:
            if character in "#;":
                self._at = _At.COMMENT
            elif character not in _BLANK + "\n":
                self._at, self._name = _At.NAME, [character]
        elif self._at is _At.COMMENT:
            self._at = _At.LINE if character == "\n" else _At.COMMENT
        elif self._at is _At.NAME:
            self._take_of_name(character)
        elif self._at in (_At.BEFORE, _At.VALUE):
            self._take_of_value(character)
        elif character == ("'" if self._at is _At.SINGLE else '"'):
            self._at = _At.BEFORE
        else:
            self._keep(character)

    def _take_of_name(self, character: str) -> None:
        if character not in "=\n":
            self._name.append(character)
            return
        if character == "\n" or not _NAME.fullmatch("".join(self._name).rstrip(_BLANK)):
            raise ValueError(f"line {self._line}: NAME=VALUE was expected, a name of letters, digits and _")
        self._at, self._value, self._kept = _At.BEFORE, [], 0

    def _take_of_value(self, character: str) -> None:
        if character == "\n":
            self._found["".join(self._name).rstrip(_BLANK)] = "".join(self._value[: self._kept])
            self._at = _At.LINE
        elif self._at is _At.BEFORE and character in "'\"":
            self._at, self._opened = (_At.SINGLE if character == "'" else _At.DOUBLE), self._line
        elif character not in _BLANK:
            self._at = _At.VALUE
            self._keep(character)
        elif self._at is _At.VALUE:
            self._value.append(character)

    def _take_escaped(self, character: str) -> None:
        """A backslash and a line's end are nothing: the value goes on."""
        if self._at is _At.DOUBLE and character not in _ESCAPED_IN_QUOTES + "\n":
            self._keep("\\")
        elif self._at is _At.BEFORE:
            self._at = _At.VALUE
        if character != "\n":
            self._keep(character)

    def _keep(self, character: str) -> None:
        self._value.append(character)
        self._kept = len(self._value)
