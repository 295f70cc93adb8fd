"""Files that people write for us, read with a bound; and the directory from which they name them."""

from __future__ import annotations

import contextlib
import os

from supervisor.errors import SettingsError

MAX_SETTINGS = 2**20  # bytes


def read_settings(path: str | None) -> bytes | None:
    """The settings file's content; None for no file. Raises `SettingsError` when it can't be read or is too big."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_SETTINGS + 1)
    except OSError as error:
        raise SettingsError(path, "", f"can't be read: {error.strerror}") from None
    if len(text) > MAX_SETTINGS:
        raise SettingsError(path, "", f"a settings file of at most {MAX_SETTINGS} bytes")
    return text


def starting_directory() -> str:
    """The working directory by the name under which a shell entered it (`$PWD`, environ(7)), else by its own.

    A deployment that moves the symlink it was entered by is then found again under the same name.
    """
    here, named = os.getcwd(), os.environ.get("PWD", "")
    with contextlib.suppress(OSError, ValueError):
        if os.path.isabs(named) and os.path.samefile(named, here):
            return named
    return here
