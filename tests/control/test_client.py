from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from supervisor.control.access import Access
from supervisor.control.client import ControlClient
from supervisor.errors import NoMasterError, RefusedError, UsageError
from supervisor.messages.status import Begun, Status
from tests.control.stage import Stage, listen, stage


@contextmanager
def impostor(path: str, answer: bytes, *, linger: float = 0) -> Iterator[None]:
    """Answers one connection with `answer`, whatever it is asked."""
    listener = listen(path)

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(65536)
            sock.sendall(answer)
            if linger:
                sock.settimeout(linger)
                sock.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join(10)
        listener.close()


def test_every_call_brings_a_typed_answer(live: Stage) -> None:
    client = ControlClient(live.path)
    assert isinstance(client.status(), Status)
    assert client.status().apps["web"].workers[1].pid == 1002
    assert client.version().pid == os.getpid()
    assert "holdfast_up 1" in client.metrics()
    assert client.reload(["web"]) == {"web": Begun(2, 2)}
    assert client.rollback(["web"]) == {"web": Begun(2, 2)}
    assert [roll.to for roll in client.rolls()["web"]] == [2]
    assert client.scale("web", "+1") == 3
    assert client.signal("USR1", "web") == [1001, 1002]
    client.start("api")
    client.stop("web:1")
    client.restart("web")
    client.shutdown()
    assert [call[0] for call in live.scene.calls] == [
        "reload",
        "rollback",
        "scale",
        "signal",
        "start",
        "stop",
        "restart",
        "shutdown",
    ]


def test_events_come_back_as_they_were(live: Stage) -> None:
    live.run(lambda: live.scene.emit("worker.exited", "killed", "web", slot=2, pid=7, level="error", why="SIGKILL"))
    assert ControlClient(live.path).recent_events() == live.scene.history


def test_following_yields_each_event_and_none_in_the_quiet(live: Stage) -> None:
    client = ControlClient(live.path)
    with client.follow() as stream:
        assert stream.read(0.05) is None
        live.run(lambda: live.scene.burst(300))
        texts = [event.text.strip(" x") for _ in range(300) if (event := stream.read(5))]
        assert texts == [f"number {number}" for number in range(300)]
        assert stream.read(0.05) is None


def test_a_stream_ends_with_the_server(path: str) -> None:
    with stage(path) as it:
        it.scene.emit("log", "before")
        with ControlClient(path).follow(recent=True) as stream:
            it.run(it.server.close)
            assert [event.text for event in stream] == ["before"]
            with pytest.raises(EOFError):
                stream.read(1)


def test_a_refusal_is_told_in_the_servers_words(live: Stage) -> None:
    with pytest.raises(RefusedError, match="no app called 'wbe'; there is web, api"):
        ControlClient(live.path).stop("wbe")


def test_another_user_is_refused_in_words(path: str) -> None:
    with (
        stage(path, permit=lambda peer: Access.NONE),
        pytest.raises(RefusedError, match="may not control this instance"),
    ):
        ControlClient(path).status()


def test_a_missing_path_is_no_master(path: str) -> None:
    with pytest.raises(NoMasterError, match="there is no such socket"):
        ControlClient(path).status()
    assert not ControlClient(path).is_answering()


def test_a_stale_socket_is_no_master(path: str) -> None:
    listen(path).close()
    with pytest.raises(NoMasterError, match="nobody listens there"):
        ControlClient(path).status()


def test_a_plain_file_is_no_master(path: str) -> None:
    with open(path, "w"):
        pass
    with pytest.raises(NoMasterError):
        ControlClient(path).status()


def test_a_master_that_hangs_is_given_up_on_in_time(path: str) -> None:
    listener = listen(path)
    began = time.monotonic()
    with pytest.raises(NoMasterError, match="stopped or stuck"):
        ControlClient(path, timeout=0.2).status()
    assert time.monotonic() - began < 2
    listener.close()


def test_a_full_queue_is_waited_for_and_then_given_up_on(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(0)
    first = socket.socket(socket.AF_UNIX)
    first.connect(path)
    with pytest.raises(NoMasterError, match="does not accept"):
        ControlClient(path, timeout=0.2).status()
    first.close()
    listener.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "broke off|closed without"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "broke off"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "does not speak this holdfast"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nhello", "broke off"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "does not speak this holdfast"),
    ],
)
def test_something_else_behind_the_socket_is_no_master(path: str, answer: bytes, said: str) -> None:
    with impostor(path, answer), pytest.raises(NoMasterError, match=said):
        ControlClient(path, timeout=2).status()


def test_an_error_without_json_still_has_its_status(path: str) -> None:
    answer = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\n\r\nbad"
    with impostor(path, answer), pytest.raises(RefusedError, match="502"):
        ControlClient(path).status()


def test_a_path_too_long_for_a_socket_is_a_usage_error(path: str) -> None:
    with pytest.raises(UsageError, match="too long"):
        ControlClient("/tmp/" + "x" * 200).status()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may connect anywhere")
def test_a_forbidden_socket_is_a_refusal(live: Stage) -> None:
    os.chmod(live.path, 0)
    with pytest.raises(RefusedError, match="permission denied"):
        ControlClient(live.path).status()


def test_the_listening_process_is_known(live: Stage) -> None:
    assert ControlClient(live.path).process() == os.getpid()
