from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.errors import SurroundingsError
from supervisor.kernel.address import MAX_UNIX_PATH
from supervisor.kernel.sockets import (
    SOCKET_MODE,
    Listener,
    adopt_fd,
    adopt_systemd,
    check_unix_path,
    find_owner,
    longest_backlog,
    open_tcp,
    open_unix,
)
from tests.kernel.conftest import in_python

NOBODY = 65534

REFUSED_TO_NOBODY = """
import json, os, sys
from supervisor.errors import SurroundingsError
from supervisor.kernel.sockets import open_tcp, open_unix
if os.getuid() == 0:
    os.setgroups([])
    os.setuid(65534)
try:
    open_tcp("127.0.0.1", int(sys.argv[2])) if sys.argv[1] == "tcp" else open_unix(sys.argv[2])
except SurroundingsError as error:
    print(json.dumps(str(error)))
"""

GIVEN_AWAY_BY_NOBODY = """
import json, os, sys
from supervisor.errors import SurroundingsError
from supervisor.kernel.sockets import open_unix
if os.getuid() == 0:
    os.setgroups([])
    os.setuid(65534)
try:
    open_unix(sys.argv[1], owner=(0, 0))
except SurroundingsError as error:
    print(json.dumps(str(error)))
"""

# The descriptors arrive wherever they are; systemd's protocol has them at 3 and up, and names this very pid.
FROM_SYSTEMD = """
import json, os, sys
from supervisor.errors import SurroundingsError
from supervisor.kernel.sockets import adopt_systemd
moved = [os.dup2(os.dup(int(number)), 100 + i) for i, number in enumerate(sys.argv[3:])]
for i, fd in enumerate(moved):
    os.dup2(fd, 3 + i)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(moved)), LISTEN_FDNAMES=sys.argv[1])
answers = []
for _ in range(2):  # again, as when settings are reread
    try:
        listener = adopt_systemd(sys.argv[2])
        answers.append([listener.address, listener.bound, listener.inherited])
        listener.close()
    except SurroundingsError as error:
        answers.append(str(error))
assert answers[0] == answers[1], answers
print(json.dumps([answers[0], [name for name in os.environ if name.startswith("LISTEN_")]]))
"""


@pytest.fixture
def opened() -> Iterator[Callable[[Listener], Listener]]:
    """Closes at the end what a test opens."""
    listeners: list[Listener] = []

    def keep(listener: Listener) -> Listener:
        listeners.append(listener)
        return listener

    yield keep
    for listener in listeners:
        listener.close()


Keep = Callable[[Listener], Listener]


def port_of(listener: Listener) -> int:
    return int(listener.bound.rpartition(":")[2])


def test_port_zero_becomes_a_real_one_and_is_told(opened: Keep) -> None:
    listener = opened(open_tcp("127.0.0.1", 0))
    assert listener.address == "127.0.0.1:0"
    assert listener.bound == f"127.0.0.1:{listener.sock.getsockname()[1]}"
    assert not listener.inherited
    with socket.create_connection(("127.0.0.1", port_of(listener))):
        listener.sock.accept()[0].close()


def test_a_listener_never_blocks_and_is_not_inherited_by_programs(opened: Keep, tmp_path: Path) -> None:
    for listener in (opened(open_tcp("127.0.0.1", 0)), opened(open_unix(str(tmp_path / "s")))):
        assert not os.get_blocking(listener.fileno())
        assert not os.get_inheritable(listener.fileno())
        with pytest.raises(BlockingIOError):
            listener.sock.accept()


def test_accepted_connections_send_at_once(opened: Keep) -> None:
    listener = opened(open_tcp("127.0.0.1", 0))
    with socket.create_connection(("127.0.0.1", port_of(listener))):
        connection, _address = listener.sock.accept()
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.close()


def test_v4_and_v6_of_one_port_stand_side_by_side(opened: Keep) -> None:
    four = opened(open_tcp("0.0.0.0", 0))
    six = opened(open_tcp("::", port_of(four)))
    assert six.bound == f"[::]:{port_of(four)}"
    with socket.create_connection(("::1", port_of(six))):
        six.sock.accept()[0].close()
        with pytest.raises(BlockingIOError):
            four.sock.accept()


def test_a_host_name_is_resolved_v4_first(opened: Keep) -> None:
    listener = opened(open_tcp("localhost", 0))
    assert listener.address == "localhost:0"
    assert listener.bound.startswith("127.0.0.1:")


def test_an_empty_host_is_every_v4_address(opened: Keep) -> None:
    assert opened(open_tcp("", 0)).bound.startswith("0.0.0.0:")


def test_a_port_can_be_bound_again_right_after_connections_were_served(opened: Keep) -> None:
    listener = open_tcp("127.0.0.1", 0)
    port = port_of(listener)
    with socket.create_connection(("127.0.0.1", port)) as client:
        listener.sock.accept()[0].close()  # the server's side closes first and leaves TIME_WAIT behind
        assert client.recv(1) == b""
    listener.close()
    assert port_of(opened(open_tcp("127.0.0.1", port))) == port


def test_a_port_in_use_is_told_with_who_has_it(opened: Keep) -> None:
    listener = opened(open_tcp("127.0.0.1", 0))
    with pytest.raises(SurroundingsError) as caught:
        open_tcp("127.0.0.1", port_of(listener))
    assert str(caught.value).startswith(f"{listener.bound} is in use by ")
    assert f"(pid {os.getpid()})" in str(caught.value)


def test_a_low_port_needs_a_privilege_and_the_remedy_is_told() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if lowest <= 1:
        pytest.skip("this machine lets everybody bind every port")
    told = in_python(REFUSED_TO_NOBODY, "tcp", 1)
    assert told.startswith("127.0.0.1:1: ")
    assert "CAP_NET_BIND_SERVICE" in told


def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(SurroundingsError, match=r"192\.0\.2\.1:8000 is not an address of this machine"):
        open_tcp("192.0.2.1", 8000)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "ü" * 64, "a..b", "1.2.3.4.5"])
def test_a_host_that_is_none_is_told(host: str) -> None:
    with pytest.raises(SurroundingsError, match="can't be resolved") as caught:
        open_tcp(host, 8000)
    assert "\n" not in str(caught.value)


def test_a_failed_open_leaves_no_descriptor(opened: Keep, tmp_path: Path) -> None:
    taken = opened(open_tcp("127.0.0.1", 0))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SurroundingsError):
        open_tcp("127.0.0.1", port_of(taken))
    with pytest.raises(SurroundingsError):
        open_unix(str(tmp_path / "missing" / "s"))
    with pytest.raises(SurroundingsError):
        adopt_fd(0 if not stat.S_ISSOCK(os.fstat(0).st_mode) else 1)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("umask", [0, 0o022, 0o177])
@pytest.mark.parametrize("mode", [SOCKET_MODE, 0o600])
def test_a_socket_file_has_the_mode_asked_for_whatever_the_umask(
    opened: Keep, tmp_path: Path, mode: int, umask: int
) -> None:
    before = os.umask(umask)
    try:
        opened(open_unix(str(tmp_path / "s"), mode=mode))
    finally:
        assert os.umask(before) == umask
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_socket_file_belongs_to_the_owner_asked_for(opened: Keep, tmp_path: Path) -> None:
    opened(open_unix(str(tmp_path / "s"), mode=0o660, owner=(NOBODY, NOBODY)))
    status = (tmp_path / "s").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (NOBODY, NOBODY, 0o660)


def test_an_owner_is_found_by_name_or_number_and_either_half_can_be_left_out() -> None:
    assert find_owner("root:root") == find_owner("0:0") == (0, 0)
    assert find_owner("65534") == (NOBODY, -1)
    assert find_owner(":65534") == (-1, NOBODY)


@pytest.mark.parametrize(("owner", "unknown"), [("nosuch:root", "user 'nosuch'"), (":nosuch", "group 'nosuch'")])
def test_an_owner_that_the_machine_does_not_know_is_named(owner: str, unknown: str) -> None:
    with pytest.raises(SurroundingsError, match=f"unix_owner {owner}: this machine has no {unknown}"):
        find_owner(owner)


def test_a_socket_that_cannot_be_given_away_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if folder.name.startswith(("pytest-", "popen-")):
            folder.chmod(0o755)
    said = in_python(GIVEN_AWAY_BY_NOBODY, str(tmp_path / "s"))
    assert "can't be given to 0:0: Operation not permitted: that takes root" in said
    assert not (tmp_path / "s").exists()


def test_the_backlog_asked_for_is_the_one_in_force(opened: Keep) -> None:
    listener = opened(open_tcp("127.0.0.1", 0, backlog=7))
    info = listener.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    assert int.from_bytes(info[28:32], sys.byteorder) == 7  # of a listening socket tcpi_sacked is its backlog


def test_the_kernels_longest_backlog_is_known() -> None:
    assert longest_backlog() == int(Path("/proc/sys/net/core/somaxconn").read_text())


def test_a_deferring_socket_hands_out_a_connection_only_with_its_first_bytes(opened: Keep) -> None:
    listener = opened(open_tcp("127.0.0.1", 0, defer=5))
    assert opened(open_tcp("127.0.0.1", 0)).sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) == 0
    with socket.create_connection(("127.0.0.1", port_of(listener)), 5) as client:
        with pytest.raises(BlockingIOError):
            listener.sock.accept()
        client.sendall(b"x")
        listener.sock.settimeout(5)
        accepted, _ = listener.sock.accept()
        with accepted:
            assert accepted.recv(1) == b"x"


def test_a_unix_socket_is_served_and_removed_at_close(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = open_unix(str(path))
    assert listener.address == listener.bound == f"unix:{path}"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        listener.sock.accept()[0].close()
    listener.close()
    listener.close()
    assert not path.exists()


def test_closing_from_another_directory_removes_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listener = open_unix("s")
    monkeypatch.chdir("/")
    listener.close()
    assert list(tmp_path.iterdir()) == []


def test_closing_leaves_what_another_put_in_its_place(opened: Keep, tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = open_unix(str(path))
    path.unlink()
    opened(open_unix(str(path)))
    first.close()
    assert path.is_socket()


def test_a_stale_socket_is_replaced(opened: Keep, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    opened(open_unix(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_live_socket_is_left_alone(opened: Keep, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    live = opened(open_unix(path))
    with pytest.raises(SurroundingsError, match="is in use"):
        open_unix(path)
    live.sock.accept()[0].close()  # the probe
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_live_socket_with_a_full_backlog_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(path)
        busy.listen(0)
        client.connect(path)
        with pytest.raises(SurroundingsError, match="is in use"):
            open_unix(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link to a file"])
def test_what_is_not_a_socket_is_never_touched(tmp_path: Path, kind: str) -> None:
    path, precious = tmp_path / "s", tmp_path / "precious"
    precious.write_text("precious")
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(precious)
    with pytest.raises(SurroundingsError, match="not a socket"):
        open_unix(str(path))
    assert precious.read_text() == "precious"
    assert path.is_dir() or path.read_text() == "precious"


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(SurroundingsError, match=r"the directory .*/missing does not exist"):
        open_unix(str(tmp_path / "missing" / "s"))


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become nobody")
def test_an_unwritable_directory_is_told() -> None:
    told = in_python(REFUSED_TO_NOBODY, "unix", "/run/holdfast-test.sock")
    assert "user 65534 can't write in /run" in told


def test_a_path_longer_than_the_kernel_allows_is_told_and_the_longest_works(opened: Keep, tmp_path: Path) -> None:
    longest = f"{tmp_path}/{'x' * (MAX_UNIX_PATH - len(str(tmp_path)) - 1)}"
    opened(open_unix(longest))
    with pytest.raises(SurroundingsError, match="108 bytes long"):
        open_unix(longest + "x")
    with pytest.raises(SurroundingsError, match="108 bytes long"):
        check_unix_path("ü" * 54)


def test_an_adopted_socket_serves_and_outlives_its_listener(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        given.listen()
        os.set_inheritable(given.fileno(), True)
        listener = adopt_fd(given.fileno())
        assert listener.address == f"fd://{given.fileno()}"
        assert listener.bound == f"unix:{path}"
        assert listener.inherited
        assert not os.get_inheritable(given.fileno())
        listener.close()
        assert path.is_socket()
        again = adopt_fd(given.fileno())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            again.sock.accept()[0].close()
        again.close()


def test_an_adopted_abstract_socket_is_described(opened: Keep) -> None:
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(f"\0holdfast-test-{os.getpid()}")
        given.listen()
        assert opened(adopt_fd(given.fileno())).bound == f"unix:@holdfast-test-{os.getpid()}"


@pytest.mark.parametrize(
    ("family", "kind", "bind"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, True),
        (socket.AF_INET, socket.SOCK_DGRAM, True),
        (socket.AF_UNIX, socket.SOCK_STREAM, False),
    ],
)
def test_a_socket_that_does_not_listen_is_refused(
    family: socket.AddressFamily, kind: socket.SocketKind, bind: bool
) -> None:
    with socket.socket(family, kind) as given:
        if bind:
            given.bind(("127.0.0.1", 0))
        with pytest.raises(SurroundingsError, match=f"fd://{given.fileno()}: the socket does not listen"):
            adopt_fd(given.fileno())
        assert given.fileno() >= 0


def test_a_descriptor_that_is_no_socket_or_not_there_is_told() -> None:
    with open(os.devnull) as file, pytest.raises(SurroundingsError, match="not a socket"):
        adopt_fd(file.fileno())
    with pytest.raises(SurroundingsError, match="no such descriptor"):
        adopt_fd(999_999)


def from_systemd(names: str, wanted: str, *listeners: Listener) -> tuple[object, list[str]]:
    fds = tuple(listener.fileno() for listener in listeners)
    answer, left = in_python(FROM_SYSTEMD, names, wanted, *fds, pass_fds=fds)
    return answer, left


def test_a_socket_from_systemd_is_found_by_name_as_often_as_asked(opened: Keep) -> None:
    one, two = opened(open_tcp("127.0.0.1", 0)), opened(open_tcp("::1", 0))
    assert from_systemd("web:admin", "admin", one, two) == (["systemd:admin", two.bound, True], [])


def test_a_sockets_unit_name_is_found_without_its_suffix(opened: Keep) -> None:
    one = opened(open_tcp("127.0.0.1", 0))
    assert from_systemd("web.socket", "web", one)[0] == ["systemd:web", one.bound, True]


def test_a_name_that_systemd_did_not_pass_is_told_with_those_it_did(opened: Keep) -> None:
    one = opened(open_tcp("127.0.0.1", 0))
    told = from_systemd("web", "wbe", one)[0]
    assert told == "systemd:wbe: systemd passed no socket of this name, only: web"


def test_a_name_that_several_sockets_have_is_told_with_their_numbers(opened: Keep) -> None:
    one, two = opened(open_tcp("127.0.0.1", 0)), opened(open_tcp("127.0.0.1", 0))
    told = from_systemd("web:web", "web", one, two)[0]
    assert told == "systemd:web: 2 sockets have this name; bind them as fd://3, fd://4"


def test_without_systemd_the_way_to_start_is_told() -> None:
    with pytest.raises(SurroundingsError, match="systemd passed no sockets"):
        adopt_systemd("web")


def test_opening_a_numeric_address_loads_no_codec() -> None:
    script = (
        "import json, sys; from supervisor.kernel.sockets import open_tcp; open_tcp('127.0.0.1', 0).close(); "
        "print(json.dumps([name for name in ('encodings.idna', 'stringprep') if name in sys.modules]))"
    )
    assert in_python(script) == []


def test_the_kernel_room_imports_nothing_heavy() -> None:
    script = (
        "import json, sys, supervisor.kernel.instance, supervisor.kernel.process, supervisor.kernel.reactor, "
        "supervisor.kernel.board, supervisor.kernel.channel; heavy = ['asyncio', 'logging', 'ctypes', "
        "'hashlib', 'psutil', 'subprocess', 'tempfile']; "
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    assert in_python(script) == []
