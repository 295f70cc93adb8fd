"""Secrets: from their files to an environment, past everything that is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.config.settings import AppSettings
from supervisor.errors import UserError
from supervisor.master.confinement import environment
from supervisor.master.place import Place, find_place
from supervisor.master.secrets import exposed, read_secrets


def settings(**more: object) -> AppSettings:
    return AppSettings(name="web", app="a:b", **more)  # type: ignore[arg-type]


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def complaint(given: AppSettings, start: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_secrets(given, str(start))
    return str(caught.value)


def test_a_file_is_named_from_where_holdfast_was_started(tmp_path: Path) -> None:
    (tmp_path / "shop.env").write_text("A=hunter2\n")
    assert read_secrets(settings(env_file="shop.env"), str(tmp_path)) == {"A": "hunter2"}


def test_a_credential_is_put_into_its_variable_and_wins_over_the_file(tmp_path: Path, credentials: Path) -> None:
    (tmp_path / "shop.env").write_text("A=file\nB=file\n")
    (credentials / "db").write_text("secret\n")
    found = read_secrets(settings(env_file="shop.env", credentials={"A": "db"}), str(tmp_path))
    assert found == {"A": "secret", "B": "file"}


def test_the_settings_own_environment_wins_and_the_masters_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "master")
    monkeypatch.setenv("B", "master")
    monkeypatch.setenv("C", "master")
    found = environment(settings(env={"C": "env"}), Place("/", secrets={"B": "file", "C": "file"}))
    assert (found["A"], found["B"], found["C"]) == ("master", "file", "env")


def test_mistakes_are_told_without_what_is_secret(tmp_path: Path, credentials: Path) -> None:
    (tmp_path / "bad.env").write_text("A=1\nhunter2\n")
    (tmp_path / "latin.env").write_bytes(b"A=hunter2\xff")
    (credentials / "nul").write_bytes(b"hunter2\0")
    assert complaint(settings(env_file="bad.env"), tmp_path).startswith("bad.env: line 2: NAME=VALUE was expected")
    assert (
        complaint(settings(env_file="gone.env"), tmp_path)
        == f"{tmp_path}/gone.env: can't be read: No such file or directory"
    )
    assert (
        complaint(settings(env_file="latin.env"), tmp_path)
        == f"{tmp_path}/latin.env: byte 10: text in UTF-8 was expected"
    )
    assert complaint(settings(credentials={"A": "nul"}), tmp_path).startswith("credential nul for A: has a NUL byte")
    assert complaint(settings(credentials={"A": "gone"}), tmp_path).endswith(
        "gone: can't be read: No such file or directory"
    )


def test_a_fifo_or_a_directory_holds_up_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert complaint(settings(env_file="fifo"), tmp_path) == f"{tmp_path}/fifo: a regular file was expected"
    assert complaint(settings(env_file="."), tmp_path).endswith("a directory") or "regular file" in complaint(
        settings(env_file="."), tmp_path
    )


def test_credentials_without_systemd_are_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    said = complaint(settings(credentials={"A": "db"}), tmp_path)
    assert said == (
        "credential db for A: $CREDENTIALS_DIRECTORY is not set; systemd sets it for a unit with LoadCredential=db:PATH"
    )


@pytest.mark.parametrize(
    ("mode", "told"), [(0o600, False), (0o640, False), (0o644, True), (0o660, True), (0o602, True)]
)
def test_a_file_that_others_get_at_is_told(mode: int, told: bool, tmp_path: Path) -> None:
    (tmp_path / "shop.env").write_text("A=hunter2\n")
    (tmp_path / "shop.env").chmod(mode)
    warning = exposed(settings(env_file="shop.env"), str(tmp_path))
    assert bool(warning) == told
    if told:
        assert warning == f"env_file shop.env is open to other users (mode {mode:04o}): chmod 600 shop.env"


def test_no_file_is_open_to_nobody(tmp_path: Path) -> None:
    assert exposed(settings(), str(tmp_path)) == exposed(settings(env_file="gone"), str(tmp_path)) == ""


def test_a_place_does_not_show_its_secrets(tmp_path: Path) -> None:
    (tmp_path / "shop.env").write_text("A=hunter2\n")
    place = find_place(settings(env_file="shop.env"), str(tmp_path))
    assert place.secrets == {"A": "hunter2"}
    assert "hunter2" not in f"{place!r} {place}"
