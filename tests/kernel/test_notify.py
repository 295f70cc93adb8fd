from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.kernel.notify import Notifier, read_listen_fds


class Manager:
    """The service manager's side of the protocol."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.sock.settimeout(5)

    def told(self) -> list[str]:
        return self.sock.recv(4096).decode().split("\n")

    def handed(self) -> tuple[list[str], list[int]]:
        data, fds, _flags, _sender = socket.recv_fds(self.sock, 4096, 4)
        return data.decode().split("\n"), fds


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@holdfast-test-{os.getpid()}"
    manager = Manager(address)
    yield manager
    manager.sock.close()


def test_each_step_of_a_services_life_is_told(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address})
    assert notifier.is_active
    notifier.ready("2 apps")
    assert manager.told() == ["READY=1", "STATUS=2 apps"]
    notifier.status("1,000 requests")
    assert manager.told() == ["STATUS=1,000 requests"]
    notifier.main_pid(17)
    assert manager.told() == ["MAINPID=17"]
    notifier.stopping()
    assert manager.told() == ["STOPPING=1"]
    notifier.close()


def test_reloading_carries_the_monotonic_time_in_microseconds(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address})
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    after = time.monotonic_ns() // 1000
    flag, stamp = manager.told()
    assert flag == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= after
    notifier.close()


def test_a_status_cannot_smuggle_in_another_assignment(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address})
    notifier.status("fine\nMAINPID=1\r\n")
    assert manager.told() == ["STATUS=fine MAINPID=1"]
    notifier.close()


def test_a_manager_that_does_not_read_never_holds_us_up(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address})
    for _ in range(2000):  # more than any datagram queue holds
        notifier.status("x" * 1000)
    assert manager.told() == ["STATUS=" + "x" * 1000]
    notifier.close()


@pytest.mark.parametrize("address", ["", "/no/such/socket", "vsock:2:1234", "@nobody-listens-here"])
def test_with_nobody_to_tell_nothing_happens(address: str) -> None:
    environ = {"NOTIFY_SOCKET": address} if address else {}
    notifier = Notifier(environ)
    notifier.ready()
    notifier.reloading("x")
    notifier.close()
    notifier.stopping()
    assert environ == {}


def test_the_app_does_not_inherit_the_notify_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    Notifier().close()
    assert "NOTIFY_SOCKET" not in os.environ


def listen_environ(**variables: str) -> dict[str, str]:
    return {"HOME": "/", **{f"LISTEN_{name}": value for name, value in variables.items()}}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PID": "17", "FDS": "2", "FDNAMES": "web:admin"}, ((3, "web"), (4, "admin"))),
        ({"PID": "17", "FDS": "2", "FDNAMES": "web"}, ((3, "web"), (4, "unknown"))),
        ({"PID": "17", "FDS": "1"}, ((3, "unknown"),)),
        ({"PID": "17", "FDS": "0"}, ()),
        ({"PID": "18", "FDS": "1"}, ()),
        ({"PID": "", "FDS": "1"}, ()),
        ({"FDS": "1"}, ()),
        ({"PID": "17"}, ()),
        ({"PID": "17", "FDS": "-1"}, ()),
        ({"PID": "17", "FDS": "one"}, ()),
        ({"PID": "17", "FDS": "1", "PIDFDID": "99"}, ((3, "unknown"),)),
    ],
)
def test_passed_descriptors_are_read_by_the_protocol_and_its_variables_removed(
    variables: dict[str, str], expected: tuple[tuple[int, str], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    monkeypatch.setattr(os, "set_inheritable", lambda fd, flag: closed.append(fd) if not flag else None)
    environ = listen_environ(**variables)
    assert read_listen_fds(environ, 17) == expected
    assert environ == {"HOME": "/"}
    assert closed == [fd for fd, _name in expected]


def test_a_descriptor_is_stored_with_its_name_and_discarded_by_it(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address})
    with socket.create_server(("127.0.0.1", 0)) as server:
        notifier.store("listen=web=a", server.fileno())
        said, (copy,) = manager.handed()
        with socket.socket(fileno=copy) as stored:
            assert stored.getsockname() == server.getsockname()
    assert said == ["FDSTORE=1", "FDNAME=listen=web=a", "FDPOLL=0"]
    notifier.discard("listen=web=a")
    assert manager.told() == ["FDSTOREREMOVE=1", "FDNAME=listen=web=a"]
    notifier.close()


def test_patience_is_asked_for_in_microseconds_and_life_is_told(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address})
    notifier.extend_timeout(15.0)
    assert manager.told() == ["EXTEND_TIMEOUT_USEC=15000000"]
    notifier.watchdog()
    assert manager.told() == ["WATCHDOG=1"]
    notifier.close()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(variables: dict[str, str], expected: float | None) -> None:
    environ = {"FDSTORE": "16", **variables}
    assert Notifier(environ).watchdog_s == expected
    assert environ == {}
