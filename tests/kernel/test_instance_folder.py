"""Who else could put a socket in place of ours, and whom it is open to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from supervisor.errors import SurroundingsError
from supervisor.kernel.instance import claim, find_group, is_open_to

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_directory_that_others_can_write_to_is_refused_in_one_line(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(SurroundingsError, match=f"others can write to {folder}; chmod go-w {folder}") as refused:
        claim(str(folder / "c.sock"))
    assert "\n" not in str(refused.value)
    assert list(folder.iterdir()) == []


def test_a_sticky_directory_will_do_for_in_it_nobody_can_replace_what_is_ours(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o1777)
    owned = claim(str(folder / "c.sock"))
    assert stat.S_IMODE((folder / "c.sock").stat().st_mode) == 0o600
    owned.release()


def test_the_directory_of_a_bare_name_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SurroundingsError, match="others can write"):
        claim("c.sock")


@ROOT_ONLY
def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    with pytest.raises(SurroundingsError, match="is user 65534's"):
        claim(str(folder / "c.sock"))


@ROOT_ONLY
def test_another_users_lock_in_a_sticky_directory_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o1777)
    lock = folder / "c.sock.lock"
    lock.touch()
    os.chown(lock, 65534, 65534)
    with pytest.raises(SurroundingsError, match=r"is user 65534's|Permission denied"):  # sysctl fs.protected_regular
        claim(str(folder / "c.sock"))


@ROOT_ONLY
def test_a_groups_socket_has_mode_0660_and_its_id(tmp_path: Path) -> None:
    owned = claim(str(tmp_path / "c.sock"), group=4321)
    status = (tmp_path / "c.sock").stat()
    owned.release()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, 0, 4321)


def test_a_group_is_known_by_name_or_number() -> None:
    assert find_group("root") == find_group("0") == 0
    with pytest.raises(SurroundingsError, match="control_group nosuch: this machine has no such group"):
        find_group("nosuch")


@ROOT_ONLY
@pytest.mark.parametrize(("mode", "group", "is_open"), [(0o700, 4321, False), (0o710, 4321, True), (0o701, 1, True)])
def test_a_group_gets_through_a_directory_or_does_not(tmp_path: Path, mode: int, group: int, is_open: bool) -> None:
    os.chown(tmp_path, 0, group)
    tmp_path.chmod(mode)
    assert is_open_to(4321, str(tmp_path / "c.sock")) is is_open
