"""Crash reports: files in a directory of our own, one for each abnormal end of a worker, the newest 50.

Invariants:
- A report is there whole or not at all, and readable by our own user only.
- Nothing that happens to the directory or the disk reaches anybody but the log, once until it works again.
- A report has at most `MAX_REPORT` bytes, so writing one takes a bounded time. No value of the app's environment that
  the settings give is in it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping

import msgspec

from supervisor.errors import RefusedError
from supervisor.messages.crash import CrashReport, CrashSummary
from supervisor.observe.journal import Journal

KEPT = 50  # reports
MAX_REPORT = 512 * 1024  # bytes
MAX_STACKS = 64 * 1024  # characters; faulthandler begins with the thread that was hit
_ID = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{3}-[A-Za-z0-9_.-]{1,80}")
_HIDDEN = "***"
_SHORTEST_SECRET = 4  # characters; shorter values would be found in any text


def crash_folder(wanted: str | None, control: str, environment: Mapping[str, str]) -> str | None:
    """Where reports go: as the settings want, else into the state directory that systemd has made for us
    (systemd.exec(5), `StateDirectory=`), else beside the control socket; None when there is none of these."""
    if wanted is not None:
        return wanted
    if state := environment.get("STATE_DIRECTORY", "").partition(":")[0]:
        return os.path.join(state, "crashes")
    return f"{control.removesuffix('.sock')}.crashes" if control else None


def without(text: str, secrets: Collection[str]) -> str:
    """The text with every one of these values, unless it is very short, hidden."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, _HIDDEN)
    return text


def encode(report: CrashReport) -> bytes:
    """The report as JSON; of one that is too large, the oldest half of the log goes, and again."""
    while len(data := msgspec.json.encode(report)) > MAX_REPORT and report.log:
        report = msgspec.structs.replace(report, log=report.log[len(report.log) // 2 + 1 :])
    return data


class CrashStore:
    """The reports of one instance. Without a `folder` there are none."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._known: dict[str, CrashSummary] = {}
        self._is_broken = False
        self.folder: str | None = None
        self.failures = 0  # reports that could not be written

    def write(self, report: CrashReport) -> bool:
        """Keep a report, and drop the oldest ones. False, told and counted, when that can't be done."""
        if self.folder is None:
            return False
        try:
            _ensure(self.folder)
            _put(self.folder, report.id, encode(report))
            self._known[report.id] = _summary(report)
            self._prune(self.folder)
        except OSError as error:
            self._failed(error)
            return False
        self._is_broken = False
        return True

    def all(self) -> Iterator[CrashSummary]:
        """What there is, the newest last; a report that is not known yet is read when its turn comes."""
        folder = self.folder
        names = _ids(folder) if folder is not None else []
        for name in self._known.keys() - set(names):
            del self._known[name]
        for name in names:
            if name not in self._known:
                with contextlib.suppress(RefusedError, msgspec.DecodeError):
                    self._known[name] = msgspec.json.decode(self.read(name), type=CrashSummary)
            if name in self._known:
                yield self._known[name]

    def read(self, name: str) -> bytes:
        """One report's JSON, by its id or the end or the beginning of it that no other has. Raises `RefusedError`."""
        names = _ids(self.folder) if self.folder is not None else []
        matching = [name] if name in names else [each for each in names if name and _fits(each, name)]
        if len(matching) != 1 or self.folder is None:
            what = f"{len(matching)} crash reports are called {name}.." if matching else f"no crash report {name!r}"
            raise RefusedError(f"{what}; `holdfastctl crashes` lists them")
        try:
            with open(_path(self.folder, matching[0]), "rb") as file:
                return file.read(MAX_REPORT * 2)
        except OSError as error:
            raise RefusedError(f"crash report {matching[0]} can't be read: {error.strerror}") from None

    def _prune(self, folder: str) -> None:
        for name in _ids(folder)[:-KEPT]:
            self._known.pop(name, None)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_path(folder, name))

    def _failed(self, error: OSError) -> None:
        self.failures += 1
        if not self._is_broken:
            self._is_broken = True
            text = f"a crash report can't be written to {self.folder}: {error.strerror or error}; {self.failures} lost"
            self._journal.event("log", f"{text} so far", level="error")


def _fits(name: str, part: str) -> bool:
    return name.startswith(part) or name.endswith(part)


def _path(folder: str, name: str) -> str:
    return os.path.join(folder, f"{name}.json")


def _ids(folder: str) -> list[str]:
    """The oldest first. A draft that was being written when its master died is no report."""
    try:
        names = (entry.removesuffix(".json") for entry in os.listdir(folder) if entry.endswith(".json"))
        return sorted(name for name in names if _ID.fullmatch(name))
    except OSError:
        return []


def _ensure(folder: str) -> None:
    """Have it be a directory that is ours alone. Raises `OSError`."""
    with contextlib.suppress(FileExistsError):
        os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
        os.mkdir(folder, 0o700)
    status = os.stat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(0, "it is no directory")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(0, "it belongs to another user, or others can write to it")


def _put(folder: str, name: str, data: bytes) -> None:
    draft = os.path.join(folder, ".draft")  # one name: what a killed master left is replaced, and not added to
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(draft, _path(folder, name))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def _summary(report: CrashReport) -> CrashSummary:
    return CrashSummary(**{name: getattr(report, name) for name in CrashSummary.__struct_fields__})
