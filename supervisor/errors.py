"""Every error holdfast raises on purpose, as one tree.

Invariant: a `UserError` is somebody's mistake outside this code (settings, app, surroundings) and is told in one
line without a traceback; anything else that escapes is ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class HoldfastError(Exception):
    """The root: `except HoldfastError` catches all that holdfast raises on purpose."""


class UserError(HoldfastError):
    """A mistake outside this code. `str(error)` is one line for a person; `exit_code` is what a command ends with."""

    exit_code = 1


class SettingsError(UserError):
    """A wrong setting: names where it stands (file or flag), the key, and what was expected.

    Several found at once are one error: it is the first of them, and `str(error)` has a line for each.
    """

    exit_code = 2

    def __init__(self, where: str, key: str, expected: str, *others: SettingsError) -> None:
        line = f"{where}: {key}: {expected}" if key else f"{where}: {expected}"
        super().__init__("\n".join([line, *map(str, others)]))
        self.where = where
        self.key = key
        self.expected = expected

    @classmethod
    def joined(cls, errors: Sequence[SettingsError]) -> SettingsError:
        """All of `errors`, at least one, as one."""
        first, *others = errors
        return cls(first.where, first.key, first.expected, *others)


class UsageError(UserError):
    """A command line that can't be meant."""

    exit_code = 2


class SurroundingsError(UserError):
    """The machine refuses something holdfast needs: an address, a path, a permission."""


class AppError(UserError):
    """The app itself can't be imported, called or started."""


class RefusedError(UserError):
    """A control command that can't be done now; the reason is the message."""


class NoMasterError(UserError):
    """No master answers on the control socket."""

    exit_code = 4


class ProtocolError(HoldfastError):
    """A message between holdfast's own processes that doesn't parse: a bug, or two versions at once."""
