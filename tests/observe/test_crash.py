"""Crash reports on a disk that may be full, someone else's, or gone."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from supervisor.errors import RefusedError
from supervisor.kernel.reactor import Reactor
from supervisor.messages.crash import CrashReport, LogLine
from supervisor.messages.events import Event
from supervisor.observe.crash import KEPT, MAX_REPORT, CrashStore, crash_folder, encode, without
from supervisor.observe.journal import Journal
from supervisor.observe.sink import Sink
from tests.control.stage import CRASH


def report(number: int) -> CrashReport:
    return msgspec.structs.replace(CRASH, id=f"20261121T0708{number:02d}.000-web-1-{1000 + number}", pid=1000 + number)


@pytest.fixture
def journal(reactor: Reactor) -> Iterator[Journal]:
    null = os.open(os.devnull, os.O_WRONLY)
    yield Journal(Sink(reactor, null, "stdout"), Sink(reactor, null, "stderr"))
    os.close(null)


@pytest.fixture
def store(journal: Journal, tmp_path: Path) -> CrashStore:
    store = CrashStore(journal)
    store.folder = str(tmp_path / "deep" / "crashes")
    return store


def told(journal: Journal) -> list[Event]:
    return list(journal.recent())


def test_a_report_is_read_as_it_was_written_also_by_another_master(store: CrashStore, journal: Journal) -> None:
    assert store.write(report(1))
    assert msgspec.json.decode(store.read(report(1).id), type=CrashReport) == report(1)
    other = CrashStore(journal)
    other.folder = store.folder
    assert [each.id for each in other.all()] == [report(1).id]
    assert list(other.all()) == list(store.all())


def test_only_our_own_user_can_read_them(store: CrashStore) -> None:
    store.write(report(1))
    assert store.folder is not None
    assert stat.S_IMODE(os.stat(store.folder).st_mode) == 0o700
    (name,) = os.listdir(store.folder)
    assert stat.S_IMODE(os.stat(os.path.join(store.folder, name)).st_mode) == 0o600


def test_the_newest_fifty_are_kept_and_nothing_else_is_touched(store: CrashStore) -> None:
    assert store.folder is not None
    os.makedirs(store.folder, 0o700)
    notes = Path(store.folder, "notes.json")
    notes.write_text("mine")
    for number in range(KEPT + 7):
        store.write(report(number))
    assert [each.pid for each in store.all()] == [1000 + number for number in range(7, KEPT + 7)]
    assert len(os.listdir(store.folder)) == KEPT + 1
    assert notes.read_text() == "mine"


def test_an_end_or_a_beginning_that_no_other_has_is_enough(store: CrashStore) -> None:
    for number in (1, 2):
        store.write(report(number))
    assert b'"pid":1002' in store.read("1002")
    with pytest.raises(RefusedError, match="2 crash reports"):
        store.read("20261121")
    for wrong in ("9999", "", "../settings", "/etc/passwd"):
        with pytest.raises(RefusedError, match="no crash report"):
            store.read(wrong)


def test_a_full_disk_is_told_once_and_counted_until_there_is_room_again(
    store: CrashStore, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int, _data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.write(report(0))
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        assert not any(store.write(report(number)) for number in range(1, 4))
    assert store.failures == 3
    (line,) = told(journal)
    assert "No space left on device" in line.text
    assert store.folder is not None
    assert len(os.listdir(store.folder)) == 1  # no half of a report is left
    assert store.write(report(5))
    assert len(list(store.all())) == 2


def test_a_directory_that_others_can_write_to_is_not_used(store: CrashStore, journal: Journal) -> None:
    assert store.folder is not None
    os.makedirs(store.folder)
    os.chmod(store.folder, 0o777)
    assert not store.write(report(1))
    assert "others can write to it" in told(journal)[0].text
    assert os.listdir(store.folder) == []


def test_a_file_in_place_of_the_directory_harms_nobody(store: CrashStore, tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("")
    assert not store.write(report(1))
    assert list(store.all()) == []


def test_a_broken_report_is_not_listed_and_the_others_are(store: CrashStore) -> None:
    store.write(report(1))
    assert store.folder is not None
    Path(store.folder, f"{report(2).id}.json").write_text('{"id": ')
    assert [each.pid for each in store.all()] == [1001]


def test_without_a_directory_there_are_no_reports_and_no_complaints(journal: Journal) -> None:
    store = CrashStore(journal)
    assert not store.write(report(1))
    assert list(store.all()) == []
    assert told(journal) == []


def test_the_largest_report_is_cut_to_its_newest_lines() -> None:
    lines = tuple(LogLine(float(number), "stderr", "\x01" * 1024) for number in range(100))
    data = encode(msgspec.structs.replace(CRASH, log=lines))
    assert len(data) <= MAX_REPORT
    kept = msgspec.json.decode(data, type=CrashReport).log
    assert kept
    assert kept[-1].ts == 99.0


@pytest.mark.parametrize(
    ("wanted", "control", "environment", "folder"),
    [
        ("/var/crashes", "/run/x/web.sock", {"STATE_DIRECTORY": "/var/lib/web"}, "/var/crashes"),
        (None, "/run/x/web.sock", {"STATE_DIRECTORY": "/var/lib/web:/var/lib/more"}, "/var/lib/web/crashes"),
        (None, "/run/x/web.sock", {}, "/run/x/web.crashes"),
        (None, "/run/x/control", {}, "/run/x/control.crashes"),
        (None, "", {}, None),
    ],
)
def test_reports_lie_where_the_settings_say_or_systemd_or_beside_the_control_socket(
    wanted: str | None, control: str, environment: dict[str, str], folder: str | None
) -> None:
    assert crash_folder(wanted, control, environment) == folder


def test_secrets_are_hidden_the_longest_first_and_short_ones_left() -> None:
    text = "password=hunter2-and-more, short hunter2, on=1"
    assert without(text, {"hunter2", "hunter2-and-more", "1", ""}) == "password=***, short ***, on=1"
