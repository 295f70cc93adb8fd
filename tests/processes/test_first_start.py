"""First starts that fail, and what stands in the way of one."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, free_port, until
from tests.processes.deeds import ask, deeds, files, ready

FAILURES = {
    "import error": (
        "import no_such_module_anywhere",
        "ModuleNotFoundError: No module named 'no_such_module_anywhere'",
    ),
    "syntax error": ("import broken_syntax", "SyntaxError: "),
    "exception": ("raise RuntimeError('no database\\nanywhere')", "RuntimeError: no database anywhere"),
    "exit": ("import sys; sys.exit(5)", "called exit(5) while it was imported"),
    "exit without an error": ("import sys; sys.exit(0)", "called exit(0) while it was imported"),
    "missing attribute": ("", "has no 'app'"),
}


def failing(folder: Path, statement: str, *arguments: str) -> Cluster:
    """A cluster, not started, whose app notes the time and then fails at import."""
    (folder / "broken_syntax.py").write_text("def app(:\n")
    (folder / "shop.py").write_text(
        "import time\nopen('failed-at', 'a').write(f'{time.time()}\\n')\n"
        f"def fail():\n    {statement or 'pass'}\nfail()\n"
    )
    return Cluster(folder, "shop:app", *arguments, bind=f"unix:{folder}/web.sock")


def errors(cluster: Cluster) -> list[str]:
    return [line for line in cluster.events() if " error " in line]


def refused(cluster: Cluster) -> str:
    """Start it; it must end at once with exit code 1 and one line, which is the result."""
    try:
        assert cluster.start().wait_exit() == 1
    finally:
        cluster.kill_everything()
    lines = [line for line in cluster.log.splitlines() if " info " not in line]
    assert len(lines) == 1, cluster.log
    assert "Traceback" not in cluster.log
    return lines[0]


@pytest.mark.parametrize("preload", ["on", "auto", "off"])
@pytest.mark.parametrize(("statement", "why"), FAILURES.values(), ids=FAILURES.keys())
def test_a_first_start_whose_app_cannot_be_imported_exits_1_and_says_why(
    tmp_path: Path, statement: str, why: str, preload: str
) -> None:
    pidfile = str(tmp_path / "pid")
    cluster = failing(tmp_path, statement, "-w", "3", "--preload", preload, "--pidfile", pidfile)
    try:
        assert cluster.start().wait_exit() == 1
        ended = time.time()
        left = cluster.leftovers()
    finally:
        cluster.kill_everything()
    assert ended - max(map(float, (tmp_path / "failed-at").read_text().split())) < 1.0
    (line,) = (line for line in errors(cluster) if "app.failed" in line)
    assert " web " in line
    assert "can't start: " in line
    assert why in line
    if statement:
        assert "web" in cluster.log
        assert "Traceback (most recent call last):" in cluster.log
        assert 'shop.py", line ' in cluster.log
    assert "supervisor/spawner" not in cluster.log  # its traceback, without our frames
    assert left == {}
    assert list(files(tmp_path)) == ["broken_syntax.py", "failed-at", "shop.py"]


def test_a_first_start_that_dies_at_import_exits_1(tmp_path: Path) -> None:
    cluster = failing(tmp_path, "import os; os.kill(os.getpid(), 11)")
    try:
        assert cluster.start().wait_exit() == 1
    finally:
        cluster.kill_everything()
    assert "can't start: the spawner ended: killed by SIGSEGV" in cluster.log


def test_a_first_start_that_hangs_at_import_exits_1_after_boot_timeout(tmp_path: Path) -> None:
    cluster = failing(tmp_path, "time.sleep(60)", "--boot-timeout", "0.5")
    try:
        assert cluster.start().wait_exit(5.0) == 1
        assert cluster.leftovers() == {}
    finally:
        cluster.kill_everything()
    assert "can't start: not imported within boot_timeout, 0.5 s" in cluster.log


def test_a_port_in_use_is_one_line_and_exit_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        line = refused(deeds(tmp_path, bind=bind, env={"IMPORT_SECONDS": "60"}))
        assert bind in line
        assert "in use" in line
        assert str(os.getpid()) in line  # who holds it
        socket.create_connection(other.getsockname()).close()  # the other one is as it was
    assert list(files(tmp_path)) == []


def test_the_second_of_two_ports_in_use_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        mine = free_port()
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        refused(deeds(tmp_path, "--bind", f"127.0.0.1:{mine}", "--bind", f"unix:{tmp_path}/web.sock", bind=bind))
        socket.create_server(("127.0.0.1", mine)).close()
    assert list(files(tmp_path)) == []


def test_a_socket_path_that_is_not_a_socket_is_one_line_and_exit_1(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("a letter")
    line = refused(deeds(tmp_path, bind=f"unix:{tmp_path}/precious"))
    assert f"{tmp_path}/precious" in line
    assert "not a socket" in line
    assert (tmp_path / "precious").read_text() == "a letter"
    assert list(files(tmp_path)) == ["precious"]


def test_a_control_path_that_is_not_a_socket_is_one_line_and_exit_1(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("a letter")
    line = refused(deeds(tmp_path))
    assert f"{tmp_path}/control.sock" in line
    assert "not a socket" in line
    assert (tmp_path / "control.sock").read_text() == "a letter"
    assert list(files(tmp_path)) == ["control.sock"]


def test_a_control_path_that_another_live_instance_owns_is_one_line_and_exit_1(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    with deeds(folders[0], "-w", "1") as first:
        second = deeds(folders[1], "-w", "1")
        second.arguments[-1] = first.control
        line = refused(second)
        assert f"another holdfast (pid {first.pid}) owns {first.control}" in line
        assert list(files(folders[1])) == []
        assert ready(first, 1)
        ask(first, "/print?undisturbed")


def test_a_pidfile_of_another_live_instance_is_one_line_and_exit_1(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    pidfile = tmp_path / "pid"
    with deeds(folders[0], "-w", "1", "--pidfile", str(pidfile)) as first:
        line = refused(deeds(folders[1], "-w", "1", "--pidfile", str(pidfile)))
        assert f"{pidfile}: another holdfast (pid {first.pid}) is running" in line
        assert int(pidfile.read_text()) == first.pid
    assert not pidfile.exists()


def pointed_at(folder: Path, flag: str, path: str) -> Cluster:
    """A cluster that is to use `path` for what the flag says."""
    if flag == "--bind":
        return deeds(folder, bind=f"unix:{path}")
    cluster = deeds(folder, flag, path)
    if flag == "--control":
        cluster.arguments = cluster.arguments[:-2]
    return cluster


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    """A directory that nobody, or at least not this user, may make a file in."""
    if os.geteuid() == 0:
        yield Path("/sys")
        return
    folder = tmp_path / "unwritable"
    folder.mkdir(mode=0o500)
    yield folder
    folder.chmod(0o700)


@pytest.mark.parametrize("flag", ["--control", "--pidfile", "--access-log", "--bind"])
def test_an_unwritable_directory_is_one_line_and_exit_1(tmp_path: Path, unwritable: Path, flag: str) -> None:
    path = str(unwritable / "holdfast-test")
    line = refused(pointed_at(tmp_path, flag, path))
    assert path in line
    assert not os.path.lexists(path)
    assert list(files(tmp_path)) in ([], ["unwritable"])


@pytest.mark.parametrize("flag", ["--control", "--pidfile", "--access-log", "--bind"])
def test_a_directory_that_does_not_exist_is_one_line_and_exit_1(tmp_path: Path, flag: str) -> None:
    path = str(tmp_path / "nowhere" / "file")
    line = refused(pointed_at(tmp_path, flag, path))
    assert str(tmp_path / "nowhere") in line
    assert list(files(tmp_path)) == []


def test_a_stale_control_socket_and_a_stale_pidfile_are_replaced(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    arguments = ("-w", "1", "--pidfile", str(pidfile), "--bind", f"unix:{tmp_path}/web.sock")
    killed = deeds(tmp_path, *arguments)
    killed.start().wait_ready().kill(signal.SIGKILL)
    killed.wait_exit()
    killed.kill_everything()
    assert list(files(tmp_path)) == [
        "control.sock",
        "control.sock.0",
        "control.sock.lock",
        "control.sock.state",
        "control.sock.state.new",
        "pid",
        "web.sock",
    ]
    assert int(pidfile.read_text()) == killed.pid
    with deeds(tmp_path, *arguments) as cluster:
        assert int(pidfile.read_text()) == cluster.pid
        assert cluster.status()["pid"] == cluster.pid
        assert stat.S_IMODE(os.stat(cluster.control).st_mode) == 0o600
        assert cluster.stop() == 0
    assert list(files(tmp_path)) == []


@pytest.mark.parametrize("directory", ["nowhere/at/all", "letter"])
def test_an_unusable_default_control_path_only_warns(tmp_path: Path, directory: str) -> None:
    (tmp_path / "letter").touch()
    cluster = deeds(tmp_path, "-w", "1", env={"XDG_RUNTIME_DIR": str(tmp_path / directory)})
    cluster.arguments = cluster.arguments[:-2]
    try:
        cluster.start()
        until("the ready line", lambda: " ready: web: 1/1 ready" in cluster.log)
        ask(cluster, "/print?served")
        (line,) = cluster.warnings()
        assert "no control socket, holdfastctl can't be used: " in line
        assert str(tmp_path / directory) in line
        assert cluster.stop() == 0
        assert cluster.leftovers() == {}
    finally:
        cluster.kill_everything()
