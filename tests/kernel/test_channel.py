from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from supervisor.kernel.channel import MAX_FDS, MAX_MESSAGE, Channel
from tests.kernel.conftest import in_python, wait_for

ECHO = """
import os, sys
from supervisor.kernel.channel import Channel
channel = Channel.from_fd(int(sys.argv[1]))
channel.set_blocking(True)
while (message := channel.receive()) is not None:
    data, fds = message
    for fd in fds:
        os.write(fd, data)
        os.close(fd)
    channel.send(data + (b" inheritable" if os.get_inheritable(channel.fileno()) else b""))
"""

CRAMPED = """
import errno, json, os, resource
from supervisor.kernel.channel import Channel
left, right = Channel.pair()
fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
left.send(b"crowded", fds)
left.send(b"crowded", fds)
left.send(b"alone")
open_before = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (max(fds) + 3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    right.receive()
except OSError as error:
    refusal = error.errno, error.data.decode(), right.receive_data().decode()
print(json.dumps([*refusal, len(os.listdir("/proc/self/fd")) - open_before, right.receive()[0].decode()]))
"""

Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    left, right = Channel.pair()
    yield left, right
    left.close()
    right.close()


def test_messages_keep_their_boundaries_and_their_order(ends: Ends) -> None:
    left, right = ends
    messages = [b"a", b"bb", bytes(MAX_MESSAGE), b"\0"]
    for message in messages:
        left.send(message)
    assert [right.receive() for _ in messages] == [(message, []) for message in messages]


def test_both_ends_send_and_receive(ends: Ends) -> None:
    left, right = ends
    left.send(b"there")
    right.send(b"and back")
    assert right.receive() == (b"there", [])
    assert left.receive() == (b"and back", [])


def test_receiving_when_nothing_waits_does_not_block(ends: Ends) -> None:
    with pytest.raises(BlockingIOError):
        ends[0].receive()


@pytest.mark.parametrize("size", [0, MAX_MESSAGE + 1])
def test_a_message_that_could_not_arrive_is_refused(ends: Ends, size: int) -> None:
    with pytest.raises(ValueError, match="a message of"):
        ends[0].send(bytes(size))


def test_descriptors_arrive_beside_their_own_message_close_on_exec(ends: Ends) -> None:
    left, right = ends
    read_end, write_end = os.pipe()
    left.send(b"none")
    left.send(b"pipe", [write_end])
    os.close(write_end)
    assert right.receive() == (b"none", [])
    message = right.receive()
    assert message is not None
    data, (fd,) = message
    assert data == b"pipe"
    assert not os.get_inheritable(fd)
    os.write(fd, b"through")
    os.close(fd)
    assert os.read(read_end, 100) == b"through"
    assert os.read(read_end, 100) == b""  # the one passed was the last write end
    os.close(read_end)


def test_as_many_descriptors_as_promised_arrive_in_order(ends: Ends) -> None:
    left, right = ends
    files = [os.memfd_create(f"number-{i}") for i in range(MAX_FDS)]
    left.send(b"many", files)
    message = right.receive()
    assert message is not None
    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in message[1]]
    assert names == [f"/memfd:number-{i} (deleted)" for i in range(MAX_FDS)]
    for fd in [*files, *message[1]]:
        os.close(fd)


def test_descriptors_without_room_are_lost_and_nothing_else() -> None:
    assert in_python(CRAMPED) == [errno.EMFILE, "crowded", "crowded", 0, "alone"]


def test_descriptors_that_nobody_expects_are_closed(ends: Ends) -> None:
    left, right = ends
    read_end, write_end = os.pipe()
    left.send(b"pipe", [write_end])
    os.close(write_end)
    assert right.receive_data() == b"pipe"
    assert os.read(read_end, 100) == b""
    os.close(read_end)
    left.close()
    assert right.receive_data() is None


def test_a_full_channel_raises_and_works_again_once_read(ends: Ends) -> None:
    left, right = ends
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 1_000_000:
            left.send(b"x" * 1000)
            sent += 1
    assert 100 < sent < 1_000_000
    assert right.receive() == (b"x" * 1000, [])
    left.send(b"last")
    received = [right.receive() for _ in range(sent)]
    assert received[-1] == (b"last", [])


def test_what_was_sent_before_the_peer_left_is_still_read(ends: Ends) -> None:
    left, right = ends
    left.send(b"last words")
    left.close()
    assert right.receive() == (b"last words", [])
    assert right.receive() is None
    assert right.receive() is None


def test_a_peer_that_left_with_messages_unread_is_an_end_too(ends: Ends) -> None:
    left, right = ends
    right.send(b"never read")
    left.close()
    wait_for(lambda: right.receive() is None)


def test_what_a_peer_sent_that_left_with_messages_unread_is_still_read(ends: Ends) -> None:
    here, there = ends
    here.send(b"unread")
    there.send(b"last words")
    there.close()
    assert here.receive() == (b"last words", [])
    assert here.receive() is None


def test_sending_to_a_peer_that_is_gone_raises(ends: Ends) -> None:
    left, right = ends
    right.close()
    with pytest.raises(BrokenPipeError):
        left.send(b"hello")


def test_an_exec_ed_process_takes_over_its_end_and_its_descriptors(ends: Ends) -> None:
    left, right = ends
    read_end, write_end = os.pipe()
    with subprocess.Popen([sys.executable, "-c", ECHO, str(right.fileno())], pass_fds=(right.fileno(),)):
        right.close()
        left.send(b"hello", [write_end])
        os.close(write_end)
        left.set_blocking(True)
        assert left.receive() == (b"hello", [])
        left.close()
    assert os.read(read_end, 100) == b"hello"
    assert os.read(read_end, 100) == b""
    os.close(read_end)


def test_a_killed_peer_reads_as_the_end(ends: Ends) -> None:
    left, right = ends
    with subprocess.Popen([sys.executable, "-c", ECHO, str(right.fileno())], pass_fds=(right.fileno(),)) as peer:
        right.close()
        left.send(b"up?")
        left.set_blocking(True)
        assert left.receive() == (b"up?", [])
        peer.send_signal(signal.SIGKILL)
        assert left.receive() is None


def test_a_channel_is_close_on_exec_and_closing_twice_does_no_harm(ends: Ends) -> None:
    left, _right = ends
    assert not os.get_inheritable(left.fileno())
    left.close()
    left.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        left.receive()


def test_the_socket_keeps_boundaries(ends: Ends) -> None:
    with socket.socket(fileno=os.dup(ends[0].fileno())) as sock:
        assert sock.type == socket.SOCK_SEQPACKET


def test_what_was_sent_counts_as_unsent_until_somebody_has_received_it(ends: Ends) -> None:
    left, right = ends
    assert left.unsent() == 0
    left.send(b"a")
    left.send(b"b")
    seen = [left.unsent()]
    for _ in range(2):
        right.receive()
        seen.append(left.unsent())
    assert seen[0] > seen[1] > seen[2] == 0
