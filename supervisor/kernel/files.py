"""Files that people write for us, read with a bound; and the directory from which they name them."""

from __future__ import annotations

import contextlib
import os
import stat

from supervisor.errors import SettingsError, SurroundingsError

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


def read_private(path: str) -> bytes:
    """A regular file of at most `MAX_SETTINGS` bytes, which may hold secrets. Raises `SurroundingsError`."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:  # a fifo holds up nobody
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SurroundingsError(f"{path}: a regular file was expected")
            data = file.read(MAX_SETTINGS + 1)
    except OSError as error:
        raise SurroundingsError(f"{path}: can't be read: {error.strerror}") from None
    if len(data) > MAX_SETTINGS:
        raise SurroundingsError(f"{path}: a file of at most {MAX_SETTINGS} bytes was expected")
    return data


def starting_directory() -> str:
    """The working directory by the name under which a shell entered it (`$PWD`, environ(7)), else by its own.

    A deployment that moves the symlink it was entered by is then found again under the same name.
    """
    here, named = os.getcwd(), os.environ.get("PWD", "")
    with contextlib.suppress(OSError, ValueError):
        if os.path.isabs(named) and os.path.samefile(named, here):
            return named
    return here
