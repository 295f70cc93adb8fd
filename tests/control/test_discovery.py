from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.control.discovery import find_socket
from supervisor.errors import NoMasterError, UsageError
from tests.control.stage import listen, stage


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("HOLDFAST_CONTROL", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "holdfast"
    folder.mkdir(mode=0o700)
    return folder


def test_the_environment_decides_without_a_look(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CONTROL", "/somewhere/else.sock")
    assert find_socket() == "/somewhere/else.sock"


def test_the_only_live_instance_is_found_among_stale_ones(runtime: Path) -> None:
    listen(str(runtime / "stale.sock")).close()
    (runtime / "notes.sock").write_text("not a socket")
    live = str(runtime / "live.sock")
    with stage(live):
        assert find_socket() == live


def test_none_running_says_how_to_start_one(runtime: Path) -> None:
    with pytest.raises(NoMasterError, match="holdfast run APP"):
        find_socket()


def test_a_missing_runtime_directory_means_none(runtime: Path) -> None:
    runtime.rmdir()
    with pytest.raises(NoMasterError, match=str(runtime)):
        find_socket()


def test_a_directory_that_others_can_write_to_is_not_believed(runtime: Path) -> None:
    live = str(runtime / "live.sock")
    with stage(live):
        os.chmod(runtime, 0o777)
        with pytest.raises(NoMasterError):
            find_socket()


def test_several_are_listed_with_the_option_that_picks_each(runtime: Path) -> None:
    one, two = str(runtime / "one.sock"), str(runtime / "two.sock")
    with stage(one), stage(two), pytest.raises(UsageError) as told:
        find_socket()
    assert f"-s {one}" in str(told.value)
    assert f"-s {two}" in str(told.value)
