"""One master an instance: where its control socket lies, and who owns it.

Invariant: a control path has at most one owner, decided by a lock that the kernel releases when its holder dies; a
claim that is released, or whose holder was killed, never stands in the way of the next one. Nobody but us and root can
put another socket in its place.

The lock file is removed on release. That is safe because whoever gets the lock looks whether the locked file is still
the one at the path, and starts over if it isn't. Source: flock(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import re
import socket
import stat
import zlib

from supervisor.errors import SurroundingsError
from supervisor.kernel import procfs
from supervisor.kernel.sockets import Listener, check_unix_path, open_unix

CONTROL_MODE = 0o600
GROUP_MODE = 0o660
_CONTROL_BACKLOG = 256  # who finds no place has to try again, and who finds one waits for all before him
_MAX_SLUG = 32


def runtime_dir() -> str:
    """The directory for this user's control sockets. Nothing is created.

    `$XDG_RUNTIME_DIR/holdfast`; without it `/run/holdfast` for root, `/run/user/UID/holdfast` where the user has a
    session, else `/tmp/holdfast-UID`.
    """
    user = os.geteuid()
    if given := os.environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(given, "holdfast")
    if user == 0:
        return "/run/holdfast"
    if os.path.isdir(f"/run/user/{user}"):
        return f"/run/user/{user}/holdfast"
    return f"/tmp/holdfast-{user}"  # noqa: S108  # made 0700 and checked to be ours before use


def default_control_path(key: str) -> str:
    """The control path of the instance known by `key`, which is anything that tells two of a user's instances apart.

    Its name starts with the working directory's, for people. The runtime directory is made if it isn't there. Raises
    `SurroundingsError` when that can't be, or when it is another user's.
    """
    folder = runtime_dir()
    _make_private(folder)
    slug = re.sub(r"[^a-z0-9]+", "-", os.path.basename(os.getcwd()).lower()).strip("-")[:_MAX_SLUG] or "root"
    # A checksum and not hashlib, whose OpenSSL is 4 MB: nobody attacks the names of their own instances.
    path = os.path.join(folder, f"{slug}-{zlib.crc32(os.fsencode(key)):08x}.sock")
    check_unix_path(path)
    return path


def control_paths() -> list[str]:
    """The control sockets in this user's runtime directory, live or stale, sorted; none from a directory of another."""
    folder = runtime_dir()
    if not _is_private(folder):
        return []
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".sock"))


class Claim:
    """Ownership of a control path, with the socket listening there. Made by `claim`."""

    def __init__(self, path: str, lock: int, listener: Listener) -> None:
        self.path = path
        self.listener = listener
        self._lock = lock

    @property
    def lock(self) -> int:
        """The locked file's descriptor: whoever has a copy owns the path."""
        return self._lock

    def release(self) -> None:
        """Remove the socket and the lock. Twice does no harm."""
        if self._lock < 0:
            return
        self.listener.close()
        _drop_lock(self.path, self._lock)
        self._lock = -1


def claim(path: str, group: int | None = None) -> Claim:
    """Own `path` and listen on it, mode 0600, or 0660 with `group`'s id; a dead owner's socket is replaced.

    Raises `SurroundingsError` when another holdfast owns it, or the path can't be used, or others could replace it.
    """
    check_unix_path(path)
    _check_folder(os.path.dirname(path) or ".")
    lock = _lock(path)
    mode, owner = (CONTROL_MODE, (-1, -1)) if group is None else (GROUP_MODE, (-1, group))
    try:
        listener = open_unix(path, backlog=_CONTROL_BACKLOG, mode=mode, owner=owner)
    except SurroundingsError:
        _drop_lock(path, lock)
        raise
    return Claim(path, lock, listener)


def find_group(name: str) -> int:
    """The id of a group, named or numbered. Raises `SurroundingsError` when this machine does not know it."""
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise SurroundingsError(f"control_group {name}: this machine has no such group") from None


def is_open_to(group: int, path: str) -> bool:
    """Whether members of the group get through the directory of a control path; those above it are not looked at."""
    status = os.stat(os.path.dirname(path) or ".")
    return bool(status.st_mode & (stat.S_IXGRP if status.st_gid == group else stat.S_IXOTH))


def resume_claim(path: str, lock: int, listener: int, inode: tuple[int, int] | None) -> Claim:
    """The claim that this process had before an `execv`, by the descriptors that crossed it."""
    for fd in (lock, listener):
        os.set_inheritable(fd, False)
    file = os.path.abspath(path), inode
    return Claim(path, lock, Listener(f"unix:{path}", socket.socket(fileno=listener), file=file))


class Pidfile:
    """A file that holds the master's pid while it runs, for init scripts and `kill -USR2 $(cat PIDFILE)`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self) -> None:
        """Write it, whole or not at all; a stale one is replaced. Raises `SurroundingsError`: a holdfast owns it."""
        pid = self._read()
        if pid is not None and pid != os.getpid() and _is_holdfast(pid):
            raise SurroundingsError(
                f"{self.path}: another holdfast (pid {pid}) is running; stop it or use another pidfile"
            )
        draft = f"{self.path}.{os.getpid()}"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with os.fdopen(fd, "w") as file:
                file.write(f"{os.getpid()}\n")
            os.replace(draft, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise SurroundingsError(f"pidfile {self.path} can't be written: {error.strerror}") from None

    def remove(self) -> None:
        """Remove it if it still tells our pid."""
        if self._read() == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def _read(self) -> int | None:
        try:
            with open(self.path, encoding="ascii", errors="replace") as file:
                text = file.read(32).strip()
        except OSError:
            return None
        return int(text) if text.isascii() and text.isdigit() else None


def _is_holdfast(pid: int) -> bool:
    """Whether the process goes by our name: the title it has set, or how it was started before it set one."""
    arguments = procfs.command_line(pid)
    if not arguments:
        return False
    started_as = {os.path.basename(argument) for argument in arguments[:2]}
    return arguments[0].startswith("holdfast:") or "holdfast" in started_as or arguments[1:3] == ["-m", "supervisor"]


def _check_folder(folder: str) -> None:
    """Whoever may write to a directory may rename what is in it, unless it is sticky, as /tmp is (inode(7))."""
    try:
        status = os.stat(folder)
    except OSError:
        return  # what is wrong with it is told by who goes on
    ours = status.st_uid in (0, os.geteuid())
    if ours and (status.st_mode & stat.S_ISVTX or not status.st_mode & 0o022):
        return
    reason = f"others can write to {folder}; chmod go-w {folder}" if ours else f"{folder} is user {status.st_uid}'s"
    raise SurroundingsError(f"control socket refused: {reason}, or choose another --control")


def _lock(path: str) -> int:
    name = f"{path}.lock"
    while True:
        try:
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SurroundingsError(f"control path {path} can't be used: {_lock_refusal(name, error)}") from None
        if (uid := os.fstat(fd).st_uid) != os.geteuid():  # in a sticky directory anybody could have made it
            os.close(fd)
            raise SurroundingsError(f"control path {path} can't be used: {name} is user {uid}'s")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise SurroundingsError(
                f"another holdfast (pid {owner or 'unknown'}) owns {path}; stop it or choose another --control"
            ) from None
        if _is_at(name, fd):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
            return fd
        os.close(fd)  # its former owner removed it between our open and our lock


def _lock_refusal(name: str, error: OSError) -> str:
    folder = os.path.dirname(name) or "."
    if error.errno == errno.ENOENT:
        return f"the directory {folder} does not exist"
    return f"{error.strerror or error} ({name})"


def _drop_lock(path: str, fd: int) -> None:
    with contextlib.suppress(OSError):
        os.unlink(f"{path}.lock")
    os.close(fd)


def _is_at(path: str, fd: int) -> bool:
    """Whether `path` still is the file behind `fd`."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _make_private(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise SurroundingsError(f"runtime directory {folder} can't be made: {error.strerror}") from None
    if not _is_private(folder):
        raise SurroundingsError(
            f"runtime directory {folder} must be a directory of user {os.geteuid()} that others can't write to"
        )


def _is_private(folder: str) -> bool:
    """Ours, a real directory, and nobody else may put a socket into it."""
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
