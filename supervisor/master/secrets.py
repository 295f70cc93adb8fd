"""Secrets for an app's environment: from its `env_file`, and from systemd's credentials.

Invariant: a value goes from its file into a `Place` and from there into an environment. No error, log line, status or
setting has it; what goes wrong is told by names and line numbers.
"""

from __future__ import annotations

import os
import stat

from supervisor.config.envfile import parse_env_file
from supervisor.config.settings import AppSettings
from supervisor.errors import SettingsError, SurroundingsError
from supervisor.kernel.files import read_private

CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"  # systemd.exec(5)
_OPEN_TO_OTHERS = stat.S_IRWXO | stat.S_IWGRP


def read_secrets(settings: AppSettings, start: str) -> dict[str, str]:
    """The variables that the settings name; a credential wins over the file. Paths begin at `start`.

    Raises `SurroundingsError` or `SettingsError`.
    """
    found: dict[str, str] = {}
    if settings.env_file is not None:
        path = os.path.join(start, settings.env_file)
        try:
            found = parse_env_file(_text(path, read_private(path)))
        except ValueError as error:
            raise SettingsError(settings.env_file, "", str(error)) from None
    for variable, name in settings.credentials.items():
        found[variable] = _credential(variable, name)
    return found


def exposed(settings: AppSettings, start: str) -> str:
    """Why others can get at the `env_file`; empty when they can't, or there is none."""
    if settings.env_file is None:
        return ""
    try:
        mode = stat.S_IMODE(os.stat(os.path.join(start, settings.env_file)).st_mode)
    except OSError:
        return ""
    if not mode & _OPEN_TO_OTHERS:
        return ""
    return f"env_file {settings.env_file} is open to other users (mode {mode:04o}): chmod 600 {settings.env_file}"


def _credential(variable: str, name: str) -> str:
    folder = os.environ.get(CREDENTIALS_DIRECTORY)
    if not folder:
        raise SurroundingsError(
            f"credential {name} for {variable}: ${CREDENTIALS_DIRECTORY} is not set; "
            f"systemd sets it for a unit with LoadCredential={name}:PATH"
        )
    path = os.path.join(folder, name)
    text = _text(path, read_private(path)).removesuffix("\n")
    if "\0" in text:
        raise SurroundingsError(f"credential {name} for {variable}: has a NUL byte, which no variable can hold")
    return text


def _text(path: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise SurroundingsError(f"{path}: byte {error.start + 1}: text in UTF-8 was expected") from None
