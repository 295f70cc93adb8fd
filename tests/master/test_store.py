"""The descriptor store: what the service manager holds, and what it is told to let go of."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from supervisor.config.load import app_settings
from supervisor.config.settings import AppSettings
from supervisor.kernel.notify import Notifier
from supervisor.master.listeners import Listeners
from supervisor.master.store import SocketStore


class Manager:
    """A service manager that holds descriptors by name, as sd_notify(3) has it."""

    def __init__(self, address: str) -> None:
        self.held: dict[str, int] = {}
        self._notifiers: list[Notifier] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind(address)
        self._address = address

    def listen(self) -> None:
        """Take in what was told."""
        while True:
            try:
                data, fds, _flags, _sender = socket.recv_fds(self._sock, 4096, 4)
            except BlockingIOError:
                return
            told = dict(line.split("=", 1) for line in data.decode().split("\n"))
            if "FDSTORE" in told:
                (self.held[told["FDNAME"]],) = fds
            elif "FDSTOREREMOVE" in told:
                os.close(self.held.pop(told["FDNAME"]))

    def master(self) -> SocketStore:
        """A new master's store, given copies of what is held."""
        given = [(os.dup(fd), name) for name, fd in self.held.items()]
        self._notifiers.append(Notifier({"NOTIFY_SOCKET": self._address}))
        return SocketStore(self._notifiers[-1], given)

    def close(self) -> None:
        self._sock.close()
        for notifier in self._notifiers:
            notifier.close()
        for fd in self.held.values():
            os.close(fd)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


def settings(*bind: str, **given: object) -> AppSettings:
    return app_settings("test", "web", {"app": "app:app", "bind": list(bind), **given})


def test_a_restart_brings_back_the_same_sockets(manager: Manager, tmp_path: Path) -> None:
    tcp, unix = "127.0.0.1:0", f"unix:{tmp_path / 'a web:sock%'}"
    store = manager.master()
    first = Listeners("web", store)
    first.ensure(settings(tcp, unix))
    bound = [listener.bound for listener in first.of([tcp, unix])]
    manager.listen()
    assert list(manager.held) == ["listen=web=127.0.0.1%3A0", f"listen=web=unix%3A{tmp_path}/a%20web%3Asock%25"]
    store.leave()
    first.close()
    manager.listen()
    assert len(manager.held) == 2
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(unix.removeprefix("unix:"))  # nobody is there, and yet it is not refused
        second = Listeners("web", manager.master())
        second.ensure(settings(tcp, unix, backlog=8))
        assert [listener.bound for listener in second.of([tcp, unix])] == bound
        second.of([unix])[0].sock.accept()[0].close()
    second.close()
    manager.listen()
    assert manager.held == {}
    assert not os.path.exists(unix.removeprefix("unix:"))


def test_an_address_that_is_dropped_is_dropped_from_the_store(manager: Manager) -> None:
    listeners = Listeners("web", manager.master())
    listeners.ensure(settings("127.0.0.1:0", "[::1]:0"))
    listeners.keep_only(["[::1]:0"])
    manager.listen()
    assert list(manager.held) == ["listen=web=[%3A%3A1]%3A0"]
    listeners.close()


def test_what_no_app_wants_any_more_is_given_up(manager: Manager) -> None:
    store = manager.master()
    first = Listeners("web", store)
    first.ensure(settings("127.0.0.1:0"))
    manager.listen()
    port = first.of(["127.0.0.1:0"])[0].sock.getsockname()[1]
    store.leave()
    first.close()
    later = manager.master()
    later.drop_unclaimed()
    manager.listen()
    assert manager.held == {}
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0


def test_a_socket_that_was_had_in_another_way_stays_in_the_store(manager: Manager) -> None:
    """From workers that outlived their master, who have it as well."""
    store = manager.master()
    first = Listeners("web", store)
    first.ensure(settings("127.0.0.1:0"))
    manager.listen()
    later = manager.master()
    second = Listeners("web", later)
    (kept,) = first.state()
    second.resume(msgspec.structs.replace(kept, fd=os.dup(kept.fd)))
    later.drop_unclaimed()
    manager.listen()
    assert list(manager.held) == ["listen=web=127.0.0.1%3A0"]
    store.leave()
    first.close()
    second.close()


def test_another_apps_socket_at_the_same_address_is_not_taken(manager: Manager) -> None:
    store = manager.master()
    first = Listeners("web", store)
    first.ensure(settings("127.0.0.1:0"))
    manager.listen()
    store.leave()
    first.close()
    second = Listeners("shop", manager.master())
    second.ensure(settings("127.0.0.1:0"))
    manager.listen()
    assert sorted(manager.held) == ["listen=shop=127.0.0.1%3A0", "listen=web=127.0.0.1%3A0"]
    second.close()


def test_without_a_service_manager_nothing_is_kept(tmp_path: Path) -> None:
    store = SocketStore(Notifier({}), ())
    listeners = Listeners("web", store)
    listeners.ensure(settings(f"unix:{tmp_path / 'web.sock'}"))
    store.leave()
    listeners.close()
    assert not (tmp_path / "web.sock").exists()


def test_a_name_too_long_for_the_store_is_not_stored(manager: Manager) -> None:
    store = manager.master()
    store.put("w" * 64, "unix:/" + "ä" * 40, 0)
    manager.listen()
    assert manager.held == {}
