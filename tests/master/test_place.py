"""A place stays where it was found, whatever the symlinks on the way to it lead to later."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from supervisor.config.load import app_settings
from supervisor.config.settings import AppSettings
from supervisor.master import place as places
from supervisor.master.place import Place, find_place
from supervisor.spawner import bootstrap


def settings(**given: object) -> AppSettings:
    return app_settings("test", "web", {"app": "app:app", **given})


@pytest.fixture
def deployed(tmp_path: Path) -> Path:
    """`current` leads to `releases/1`."""
    root = tmp_path.resolve()
    for number in ("1", "2"):
        (root / "releases" / number / ".venv" / "bin").mkdir(parents=True)
        (root / "releases" / number / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (root / "current").symlink_to("releases/1")
    return root


def move(root: Path, number: str) -> None:
    (root / "next").symlink_to(f"releases/{number}")
    (root / "next").rename(root / "current")


def test_chdir_through_a_symlink_is_the_release_itself(deployed: Path) -> None:
    first = find_place(settings(chdir=str(deployed / "current")), "/")
    move(deployed, "2")
    second = find_place(settings(chdir=str(deployed / "current")), "/")
    assert (first.home, second.home) == (str(deployed / "releases/1"), str(deployed / "releases/2"))


def test_without_chdir_the_starting_directory_is_looked_up_anew(deployed: Path) -> None:
    first = find_place(settings(), str(deployed / "current"))
    move(deployed, "2")
    second = find_place(settings(), str(deployed / "current"))
    assert (first.home, second.home) == (str(deployed / "releases/1"), str(deployed / "releases/2"))


@pytest.mark.parametrize("python", [".venv/bin/python", "{root}/current/.venv/bin/python"])
def test_the_interpreter_is_that_of_the_releases_own_venv_and_not_what_its_link_leads_to(
    deployed: Path, python: str
) -> None:
    found = find_place(settings(chdir="current", python=python.replace("{root}", str(deployed))), str(deployed))
    assert found.python == str(deployed / "releases/1/.venv/bin/python")


def test_an_interpreter_without_a_slash_is_looked_for_in_path(deployed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"/nonexistent:{deployed}/current/.venv/bin")
    assert find_place(settings(python="python"), "/").python == str(deployed / "releases/1/.venv/bin/python")


def test_what_is_missing_is_no_error_yet(tmp_path: Path) -> None:
    start = str(tmp_path.resolve())
    assert find_place(settings(chdir="gone", python="no-such-python"), start) == Place(
        f"{start}/gone", f"{start}/gone/no-such-python"
    )


def test_our_own_interpreter_needs_no_bootstrap() -> None:
    assert Place("/srv").command("some.module") == [sys.executable, "-P", "-m", "some.module"]


def test_another_interpreter_is_given_the_bootstrap_which_knows_the_same_modules() -> None:
    command = Place("/srv", "/opt/python").command(places.SPAWNER)
    assert (command[0], command[2]) == ("/opt/python", places.SPAWNER)
    assert Path(command[1]) == Path(bootstrap.__file__)
    assert (bootstrap.SPAWNER, bootstrap.CHECK) == (places.SPAWNER, places.CHECK)
