"""Sockets of an earlier master: taken back on today's terms, or not at all."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from supervisor.kernel.revival import revive_tcp, revive_unix
from supervisor.kernel.sockets import open_tcp, open_unix

KEPT = (-1, -1)


def copy_of(sock: socket.socket) -> int:
    return os.dup(sock.fileno())


def test_a_tcp_socket_goes_on_with_the_connections_that_wait_in_it() -> None:
    first = open_tcp("127.0.0.1", 0)
    address = first.bound
    fd = copy_of(first.sock)
    first.close()
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))):
        again = revive_tcp(fd, address, 16, 3.0)
        assert again is not None
        assert (again.bound, again.address, again.inherited) == (address, address, False)
        assert again.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) >= 3
        accepted, _peer = again.sock.accept()
        accepted.close()
    again.close()


def test_port_zero_keeps_the_port_that_it_once_got() -> None:
    first = open_tcp("127.0.0.1", 0)
    again = revive_tcp(copy_of(first.sock), "127.0.0.1:0", 16, 0.0)
    assert again is not None
    assert (again.address, again.bound) == ("127.0.0.1:0", first.bound)
    first.close()
    again.close()


def test_another_port_and_what_does_not_listen_are_closed() -> None:
    first = open_tcp("127.0.0.1", 0)
    other = copy_of(first.sock)
    assert revive_tcp(other, "127.0.0.1:1", 16, 0.0) is None
    with socket.socket() as silent:
        deaf = copy_of(silent)
        assert revive_tcp(deaf, first.bound, 16, 0.0) is None
    read, write = os.pipe()
    os.close(write)
    assert revive_tcp(read, first.bound, 16, 0.0) is None
    unix = copy_of(first.sock)
    assert revive_unix(unix, "/tmp/x", 16, 0o600, KEPT) is None
    for fd in (other, deaf, unix, read):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    first.close()


def test_a_unix_socket_has_the_mode_of_today(tmp_path: Path) -> None:
    path = str(tmp_path / "web.sock")
    first = open_unix(path, mode=0o666)
    fd = copy_of(first.sock)
    first.close(keep_file=True)
    again = revive_unix(fd, path, 16, 0o600, KEPT)
    assert again is not None
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    again.close()
    assert not os.path.exists(path)


def test_a_unix_socket_without_its_file_is_reached_by_nobody_and_not_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "web.sock")
    first = open_unix(path)
    fd = copy_of(first.sock)
    first.close()
    assert revive_unix(fd, path, 16, 0o600, KEPT) is None
    assert not os.path.exists(path)
