"""A real systemd as pid 1 of namespaces of its own, and holdfast's project installed there as its unit expects it.

Invariant: nothing outside sees or keeps anything of it: mounts, processes, network, journal and cgroups are its own,
and killing its pid 1 ends it whole.

What is inside: the host's root, with fresh /run, /srv and /var/log; `/srv/web` with a venv whose `holdfast` is this
checkout; only those units of the host's that `UNITS` names, and no dbus, which `systemctl` run by root does without.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.cluster import until

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = next((path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if Path(path).exists()), "")
UNITS = (
    *("basic", "sysinit", "sockets", "timers", "paths", "slices", "shutdown", "umount"),
    *("local-fs", "network", "network-online", "multi-user"),
)
JOURNAL = ("systemd-journald.service", "systemd-journald.socket")
TARGET = """\
[Unit]
Requires=basic.target
Wants=systemd-journald.socket systemd-journald.service
"""
CLONE_NEWNET = 0x40000000

SETUP = """\
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs /mnt
mkdir /mnt/machine /mnt/python /mnt/holdfast /mnt/packages /mnt/web
mount --bind "$1" /mnt/machine
mount --bind "$2" /mnt/python
mount --bind "$3" /mnt/holdfast
mount --bind "$4" /mnt/packages
mount --move /mnt /srv  # all at once: what they are bound from may be hidden from here on
for folder in /run /tmp /var/tmp /var/log; do mount -t tmpfs -o mode=0755 tmpfs $folder; done
chmod 1777 /tmp /var/tmp
ip link set lo up
mkdir -p /run/systemd/journald.conf.d
printf '[Journal]\\nReadKMsg=no\\nForwardToConsole=no\\n' >/run/systemd/journald.conf.d/test.conf
cp -r /srv/machine/web/. /srv/web/
cp -r /srv/machine/units /run/units
mount --make-rshared /  # what a container's manager does: units' own mounts, of credentials, come by it
exec env -i container=holdfast-test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/units \\
    SYSTEMD_GENERATOR_PATH=/nowhere "$5" --system --unit=test.target --log-target=journal --show-status=no
"""


class Machine:
    """Booted by `with`. `folder` is this test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._cgroup = next(_cgroup2_mounts()) / f"holdfast-test-{os.getpid()}"
        self.pid = 0

    def __enter__(self) -> Machine:
        self._prepare()
        self._cgroup.mkdir()
        sources = [self._folder, Path(sys.base_prefix), ROOT, Path(sysconfig.get_path("purelib")), Path(SYSTEMD)]
        join = 'echo $$ >"$0/cgroup.procs" && exec unshare --mount --pid --fork --cgroup --ipc --uts --net "$@"'
        command = ["sh", "-c", join, str(self._cgroup), "sh", "-c", SETUP, "setup", *map(str, sources)]
        with (self._folder / "console").open("wb") as console:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        try:
            self.pid = until("systemd's own process", self._find_pid, 10.0)
            until("systemd to answer", lambda: self.systemctl("is-system-running").stdout.strip() == "running", 20.0)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        until("its cgroups to be empty", self._remove_cgroups, 10.0)

    @property
    def root(self) -> Path:
        """Its file system, as seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def console(self) -> str:
        return (self._folder / "console").read_text(errors="replace")

    def run(self, *command: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root."""
        line = ["nsenter", "-t", str(self.pid), "--mount", "--pid", "--net", "--cgroup", "--ipc", "--uts", *command]
        return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False, cwd="/")

    def systemctl(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", "--no-pager", *arguments, timeout=timeout)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--value", "-p", name, unit).stdout.strip()

    def journal(self, unit: str) -> str:
        """All that the unit's processes, and systemd about the unit, have said."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit).stdout

    def unit(self, name: str, text: str) -> None:
        """Write a unit, or `NAME.service.d/FILE.conf`, and have it read."""
        path = self.root / "run/units" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        assert self.systemctl("daemon-reload").returncode == 0

    def without(self, name: str) -> None:
        """Remove a unit or a drop-in."""
        (self.root / "run/units" / name).unlink(missing_ok=True)
        assert self.systemctl("daemon-reload").returncode == 0

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Inside, this thread and whatever it starts have the machine's network, setns(2)."""
        ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        theirs = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            assert libc.setns(theirs, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            yield
        finally:
            assert libc.setns(ours, CLONE_NEWNET) == 0
            os.close(ours)
            os.close(theirs)

    def _prepare(self) -> None:
        units, web = self._folder / "units", self._folder / "web"
        units.mkdir()
        for name in (*(f"{unit}.target" for unit in UNITS), *JOURNAL):
            shutil.copy(f"/usr/lib/systemd/system/{name}", units)
        (units / "test.target").write_text(TARGET)
        shutil.copytree(ROOT / "app_template", web)
        packages = web / f".venv/lib/python3.{sys.version_info.minor}/site-packages"
        packages.mkdir(parents=True)
        (packages / "checkout.pth").write_text("/srv/holdfast\n/srv/packages\n")
        (web / ".venv/pyvenv.cfg").write_text("home = /srv/python/bin\ninclude-system-site-packages = false\n")
        scripts = web / ".venv/bin"
        scripts.mkdir()
        (scripts / "python").symlink_to(f"/srv/python/bin/python3.{sys.version_info.minor}")
        for name, call in (("holdfast", "main"), ("holdfastctl", "ctl")):
            text = f"#!/srv/web/.venv/bin/python\nimport sys, holdfast\nsys.exit(holdfast.{call}())\n"
            (scripts / name).write_text(text)
            (scripts / name).chmod(0o755)

    def _find_pid(self) -> int:
        """unshare's child, once it has become systemd."""
        assert self._process is not None
        assert self._process.poll() is None, self.console
        parent = self._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for pid in children:
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return int(pid)
        return 0

    def _remove_cgroups(self) -> bool:
        for folder, _folders, _files in os.walk(self._cgroup, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not self._cgroup.exists()


@functools.cache
def why_not() -> str:
    """Why no systemd can be booted here; empty when it can."""
    if os.geteuid() != 0:
        return "only root may make the namespaces for a systemd"
    if not SYSTEMD:
        return "systemd is not installed"
    missing = [name for name in ("unshare", "nsenter", "mount", "ip", "systemctl") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if not list(_cgroup2_mounts()):
        return "no cgroup2 is mounted here"
    flags = ("--mount", "--pid", "--fork", "--cgroup", "--ipc", "--uts", "--net")
    done = subprocess.run(["unshare", *flags, "mount", "-t", "proc", "proc", "/proc"], capture_output=True, text=True)
    return f"namespaces are not permitted: {done.stderr.strip()}" if done.returncode else ""


def require() -> None:
    """Skip the test where no systemd can be booted."""
    if reason := why_not():
        pytest.skip(reason)


def _cgroup2_mounts() -> Iterator[Path]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, where, kind, *_rest = line.split()
        if kind == "cgroup2":
            yield Path(where)
