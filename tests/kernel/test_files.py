"""The starting directory keeps the name by which a shell entered it, if that is a name of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.kernel.files import starting_directory


@pytest.mark.parametrize("named", ["current", "elsewhere", "gone", None])
def test_pwd_is_believed_when_it_leads_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None) -> None:
    real = tmp_path.resolve() / "1"
    real.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "current").symlink_to("1")
    monkeypatch.chdir(real)
    if named is None:
        monkeypatch.delenv("PWD", raising=False)
    else:
        monkeypatch.setenv("PWD", str(tmp_path / named))
    assert starting_directory() == str(tmp_path / "current" if named == "current" else real)


def test_a_relative_pwd_is_nobodys_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", ".")
    assert starting_directory() == str(tmp_path.resolve())
