"""What a service manager hears, and when: a real reactor, a real datagram socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.kernel.notify import Notifier
from supervisor.kernel.reactor import Reactor
from supervisor.master import herald as heralds
from supervisor.master.herald import Herald


class Scene:
    """A herald, the loop it lives on, and the manager's end of its socket."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.reactor = Reactor(self._fail)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.bind(str(folder / "notify"))
        self.herald = Herald(Notifier({"NOTIFY_SOCKET": str(folder / "notify"), **environ}), self.reactor)

    def _fail(self, error: Exception) -> None:
        raise error

    def turn(self, seconds: float) -> None:
        self.reactor.call_later(seconds, self.reactor.stop)
        self.reactor.run()

    def heard(self) -> list[str]:
        """Messages since this was last asked, times left out."""
        found: list[str] = []
        while True:
            try:
                lines = self.sock.recv(4096).decode().split("\n")
            except BlockingIOError:
                return found
            found.append(" ".join(line for line in lines if not line.startswith("MONOTONIC_USEC=")))

    def close(self) -> None:
        self.herald.close()
        self.reactor.close()
        self.sock.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


PATIENCE = "EXTEND_TIMEOUT_USEC=15000000"


def test_a_life_from_start_to_stop_is_told_word_for_word(scene: Scene) -> None:
    herald = scene.herald
    herald.begin(60)
    herald.tell("web: 0/2 ready, g1", is_ready=False, is_rolling=False)
    herald.tell("web: 1/2 ready, g1", is_ready=False, is_rolling=False)
    herald.tell("web: 2/2 ready, g1", is_ready=True, is_rolling=False)
    herald.tell("web: 2/2 ready, g1", is_ready=True, is_rolling=False)
    assert scene.heard() == [
        PATIENCE,
        "STATUS=web: 0/2 ready, g1",
        "STATUS=web: 1/2 ready, g1",
        "READY=1 STATUS=web: 2/2 ready, g1",
    ]
    herald.tell("web: 2/2 ready, g1", is_ready=True, is_rolling=True)
    herald.tell("web: 2/2 ready, g2", is_ready=True, is_rolling=True)
    herald.tell("web: 2/2 ready, g2", is_ready=True, is_rolling=False)
    assert scene.heard() == [
        "RELOADING=1 STATUS=web: 2/2 ready, g1",
        PATIENCE,
        "STATUS=web: 2/2 ready, g2",
        "READY=1 STATUS=web: 2/2 ready, g2",
    ]
    herald.tell("web: 1/2 ready, g2", is_ready=True, is_rolling=False)
    herald.stopping("stopping: 2 workers left")
    herald.stopping("stopping: 1 worker left")
    assert scene.heard() == [
        "STATUS=web: 1/2 ready, g2",
        "STOPPING=1 STATUS=stopping: 2 workers left",
        PATIENCE,
        "STATUS=stopping: 1 worker left",
    ]


def test_timeouts_are_put_off_as_long_as_something_is_under_way(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heralds, "EXTEND_EVERY", 0.02)
    scene.herald.begin(60)
    scene.turn(0.1)
    assert len(scene.heard()) >= 3
    scene.herald.tell("web: 1/1 ready, g1", is_ready=True, is_rolling=False)
    scene.turn(0.1)
    assert [line for line in scene.heard() if line == PATIENCE] == []
    scene.herald.stopping("stopping: 1 worker left")
    scene.turn(0.1)
    assert scene.heard().count(PATIENCE) >= 3


def test_a_start_that_takes_too_long_is_left_to_the_managers_timeout(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heralds, "EXTEND_EVERY", 0.02)
    scene.herald.begin(0.05)
    scene.turn(0.1)
    assert scene.heard()
    scene.turn(0.1)
    assert scene.heard() == []


def test_the_watchdog_is_fed_twice_in_its_time_by_the_loop_alone(tmp_path: Path) -> None:
    scene = Scene(tmp_path, WATCHDOG_USEC="40000")
    scene.herald.begin(60)
    scene.herald.tell("", is_ready=True, is_rolling=False)
    scene.heard()
    scene.turn(0.2)
    assert 6 <= scene.heard().count("WATCHDOG=1") <= 11
    scene.close()


def test_without_a_manager_no_timer_runs(tmp_path: Path) -> None:
    reactor = Reactor(lambda error: None)
    herald = Herald(Notifier({"WATCHDOG_PID": "1", "WATCHDOG_USEC": "1000"}), reactor)
    herald.begin(60)
    herald.tell("x", is_ready=True, is_rolling=True)
    herald.close()
    reactor.close()
