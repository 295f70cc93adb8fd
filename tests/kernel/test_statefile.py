from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.kernel.statefile import RESERVE, StateFile
from tests.small_disk import filled, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    try:
        with small_disk(tmp_path / "disk", 256 * 1024) as folder:
            yield folder
    except OSError as error:
        pytest.skip(str(error.strerror))


def state(folder: Path) -> StateFile:
    return StateFile(str(folder / "state"))


def test_it_holds_what_was_written_last_and_is_ours_alone(tmp_path: Path) -> None:
    file = state(tmp_path)
    for data in (b"one", b"the second is longer", b"3", b""):
        file.write(data)
        assert (tmp_path / "state").read_bytes() == data
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600
    file.remove()
    assert list(tmp_path.iterdir()) == []
    file.remove()


def test_a_full_disk_has_room_for_as_much_as_before_and_some_more_for_ever(disk: Path) -> None:
    file = state(disk)
    file.write(b"a" * 10_000)
    with filled(disk):
        for number in range(100):
            data = b"%d" % (number % 10) * (10_000 + number % 2 * RESERVE)
            file.write(data)
            assert (disk / "state").read_bytes() == data
    file.write(b"b" * 10_000)


def test_what_does_not_fit_leaves_the_file_as_it_was_and_fits_when_there_is_room(disk: Path) -> None:
    file = state(disk)
    file.write(b"a" * 1000)
    with filled(disk):
        with pytest.raises(OSError, match="No space left"):
            file.write(b"b" * 100_000)
        assert (disk / "state").read_bytes() == b"a" * 1000
        file.write(b"c" * 1000)
    file.write(b"d" * 100_000)
    assert (disk / "state").read_bytes() == b"d" * 100_000


class KilledError(BaseException):
    """The writer was."""


@pytest.mark.parametrize("at", range(8))
def test_whenever_its_writer_is_killed_it_is_whole_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    state(tmp_path).write(b"before")
    calls = 0

    def mortal(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > at:
                raise KilledError
            return call(*arguments, **more)

        return wrapped

    with monkeypatch.context() as patched:
        for name in ("open", "link", "unlink", "rename", "posix_fallocate"):
            patched.setattr(os, name, mortal(getattr(os, name)))
        try:
            state(tmp_path).write(b"meanwhile")
        except KilledError:
            assert at < 7
    assert (tmp_path / "state").read_bytes() in (b"before", b"meanwhile")
    file = state(tmp_path)
    file.write(b"after")
    file.write(b"and after that")
    assert (tmp_path / "state").read_bytes() == b"and after that"
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_it_does_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_more: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    file = state(tmp_path)
    file.write(b"one")
    file.write(b"two")
    assert (tmp_path / "state").read_bytes() == b"two"


def test_a_symlink_in_the_place_of_the_spare_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "state.new").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        state(tmp_path).write(b"x")
    assert (tmp_path / "precious").read_bytes() == b"precious"
