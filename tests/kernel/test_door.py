"""Connections taken from listening sockets of every kind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from supervisor.kernel.door import Door


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_connection_knows_its_kind_and_both_addresses(family: socket.AddressFamily, host: str) -> None:
    door = Door(socket.create_server((host, 0), family=family))
    assert isinstance(door.here, tuple)
    with socket.create_connection(door.here[:2]) as client:
        taken, peer = door.accept()
        assert peer == client.getsockname()
        assert taken.getpeername() == peer
        assert taken.getsockname() == door.here
        assert (taken.family, taken.type) == (family, socket.SOCK_STREAM)
        assert not os.get_inheritable(taken.fileno())
        taken.close()
    door.close()


def test_a_socket_for_every_interface_has_no_address_that_all_its_connections_share() -> None:
    door = Door(socket.create_server(("", 0)))
    assert door.here is None
    door.close()


def test_a_path_is_no_address_of_a_server(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    door = Door(listener)
    assert door.here is None
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        taken, _ = door.accept()
        client.sendall(b"x")
        assert taken.recv(2) == b"x"
        taken.close()
    door.close()


def test_an_empty_queue_is_told_as_accept_tells_it() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    door = Door(listener)
    with pytest.raises(BlockingIOError):
        door.accept()
    door.close()
