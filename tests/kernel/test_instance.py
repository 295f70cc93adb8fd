from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.errors import SurroundingsError
from supervisor.kernel import procfs
from supervisor.kernel.instance import Pidfile, claim, control_paths, default_control_path, runtime_dir
from tests.kernel.conftest import wait_for

OWNER = """
import sys
from supervisor.kernel.instance import claim
owned = claim(sys.argv[1])
print("owned", flush=True)
sys.stdin.read()
"""

# Whoever owns the path makes a file that must not exist yet: two owners at once can't both.
CONTENDER = """
import os, sys, time
from supervisor.errors import SurroundingsError
from supervisor.kernel.instance import claim
path, won = sys.argv[1], 0
deadline = time.monotonic() + 20
while won < 100 and time.monotonic() < deadline:
    try:
        owned = claim(path)
    except SurroundingsError as error:
        assert "another holdfast" in str(error), error
        continue
    os.close(os.open(path + ".alone", os.O_CREAT | os.O_EXCL))
    os.unlink(path + ".alone")
    owned.release()
    won += 1
sys.exit(won < 100)
"""


def test_a_claim_listens_for_its_user_only_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    before = os.umask(0)
    try:
        owned = claim(str(path))
    finally:
        os.umask(before)
    assert owned.path == str(path)
    assert owned.listener.bound == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.with_name("control.sock.lock").stat().st_mode) == 0o600
    owned.release()
    owned.release()
    assert list(tmp_path.iterdir()) == []


def test_a_second_claim_is_refused_with_the_owners_pid(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    owned = claim(path)
    with pytest.raises(SurroundingsError, match=rf"another holdfast \(pid {os.getpid()}\) owns {path}"):
        claim(path)
    assert Path(path).is_socket()
    owned.release()
    claim(path).release()


def test_the_claim_of_a_killed_owner_is_free(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    command = [sys.executable, "-c", OWNER, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"owned\n"
        with pytest.raises(SurroundingsError, match=rf"\(pid {owner.pid}\)"):
            claim(path)
        owner.send_signal(signal.SIGKILL)
    assert Path(path).is_socket()
    owned = claim(path)
    assert Path(f"{path}.lock").read_text() == f"{os.getpid()}\n"
    owned.release()
    assert list(tmp_path.iterdir()) == []


def test_contenders_never_own_the_path_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    contenders = [subprocess.Popen([sys.executable, "-c", CONTENDER, path]) for _ in range(3)]
    assert [contender.wait(40) for contender in contenders] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []


def test_a_refused_claim_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(SurroundingsError, match="not a socket"):
        claim(str(path))
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(SurroundingsError, match="does not exist"):
        claim(str(tmp_path / "missing" / "control.sock"))
    with pytest.raises(SurroundingsError, match="bytes long"):
        claim(f"{tmp_path}/{'x' * 100}")
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "control.sock.lock").symlink_to(victim)
    with pytest.raises(SurroundingsError, match="can't be used"):
        claim(str(tmp_path / "control.sock"))
    assert victim.read_text() == "precious"


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "holdfast"


def test_the_runtime_directory_follows_the_session_then_the_user(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runtime_dir() == str(runtime)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert runtime_dir() == "/run/holdfast"
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert runtime_dir() == "/tmp/holdfast-4711"
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/run/user/4711")
    assert runtime_dir() == "/run/user/4711/holdfast"
    assert not runtime.exists()


def test_a_default_control_path_tells_where_and_differs_by_key(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = tmp_path / "My Shop (v2)!"
    shop.mkdir()
    monkeypatch.chdir(shop)
    paths = {key: default_control_path(key) for key in ("/srv/a.toml", "/srv/b.toml", "ü\udcff")}
    assert len(set(paths.values())) == 3
    for path in paths.values():
        assert re.fullmatch(rf"{runtime}/my-shop-v2-[0-9a-f]{{8}}\.sock", path)
    assert paths["/srv/a.toml"] == default_control_path("/srv/a.toml")
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700


def test_a_working_directory_without_a_usable_name_still_gives_a_path(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert Path(default_control_path("k")).name.startswith("root-")


def test_a_runtime_directory_that_others_can_write_to_is_refused(runtime: Path) -> None:
    runtime.mkdir()
    runtime.chmod(0o777)
    with pytest.raises(SurroundingsError, match="others can't write"):
        default_control_path("k")
    assert control_paths() == []


def test_a_runtime_directory_that_is_a_link_is_refused(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    runtime.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SurroundingsError, match="must be a directory"):
        default_control_path("k")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_runtime_directory_of_another_user_is_refused(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    os.chown(runtime, 65534, 65534)
    (runtime / "trap.sock").touch()
    with pytest.raises(SurroundingsError, match="must be a directory of user 0"):
        default_control_path("k")
    assert control_paths() == []


def test_a_runtime_directory_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    with pytest.raises(SurroundingsError, match="can't be made: No such file or directory"):
        default_control_path("k")


def test_the_control_sockets_of_all_instances_are_listed(runtime: Path) -> None:
    assert control_paths() == []
    owned = [claim(default_control_path(key)) for key in ("a", "b")]
    assert control_paths() == sorted(each.path for each in owned)
    for each in owned:
        each.release()
    assert control_paths() == []


def test_a_pidfile_is_written_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    pidfile = Pidfile(str(path))
    pidfile.write()
    assert path.read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0
    assert list(tmp_path.iterdir()) == [path]
    pidfile.write()
    pidfile.remove()
    pidfile.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "nonsense", "99999999\n", "-1", "0"])
def test_a_stale_or_senseless_pidfile_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pid"
    path.write_text(content)
    pidfile = Pidfile(str(path))
    pidfile.write()
    assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["holdfast: master"],
        ["/usr/bin/holdfast", "run"],
        ["python3", "bin/holdfast", "run"],
        ["python3", "-m", "supervisor"],
    ],
)
def test_the_pidfile_of_a_running_holdfast_is_left_alone(tmp_path: Path, arguments: list[str]) -> None:
    # A shell stands in for it under any name, and waits for input: by itself, or in the script that it is given.
    (tmp_path / "bin").mkdir()
    for script in ("run", "supervisor", "bin/holdfast"):
        (tmp_path / script).write_text("read line\n")
    path = tmp_path / "pid"
    with subprocess.Popen(arguments, executable="/bin/sh", cwd=tmp_path, stdin=subprocess.PIPE) as other:
        wait_for(lambda: procfs.command_line(other.pid) == arguments)
        path.write_text(f"{other.pid}\n")
        with pytest.raises(SurroundingsError, match=rf"another holdfast \(pid {other.pid}\) is running"):
            Pidfile(str(path)).write()
        other.kill()
    assert path.read_text() == f"{other.pid}\n"
    Pidfile(str(path)).write()
    assert path.read_text() == f"{os.getpid()}\n"


def test_a_pidfile_that_names_another_program_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with subprocess.Popen(["sleep", "60"]) as other:
        path.write_text(f"{other.pid}\n")
        Pidfile(str(path)).write()
        other.kill()
    assert path.read_text() == f"{os.getpid()}\n"


def test_a_pidfile_that_another_took_over_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    pidfile = Pidfile(str(path))
    pidfile.write()
    path.write_text("1\n")
    pidfile.remove()
    assert path.read_text() == "1\n"


def test_a_pidfile_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SurroundingsError, match="can't be written: No such file or directory"):
        Pidfile(str(tmp_path / "missing" / "pid")).write()
    (tmp_path / "pid").mkdir()
    with pytest.raises(SurroundingsError, match="can't be written"):
        Pidfile(str(tmp_path / "pid")).write()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pid"]
