"""What the rooms that run on the reactor share: a reactor that ends in time, and Python in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from supervisor.kernel.reactor import Reactor

DEADLINE = 10.0


class Until(Protocol):
    """Turns the reactor until a condition holds; fails the test when it doesn't in time."""

    def __call__(self, condition: Callable[[], object], timeout: float = DEADLINE) -> None: ...


@pytest.fixture
def errors() -> list[Exception]:
    """What callbacks on the reactor raised. A test that expects errors empties it."""
    return []


@pytest.fixture
def reactor(errors: list[Exception]) -> Iterator[Reactor]:
    reactor = Reactor(errors.append)
    yield reactor
    reactor.close()
    assert errors == []


@pytest.fixture
def until(reactor: Reactor) -> Until:
    def run_until(condition: Callable[[], object], timeout: float = DEADLINE) -> None:
        deadline = reactor.now() + timeout

        def look() -> None:
            if condition() or reactor.now() > deadline:
                reactor.stop()
            else:
                reactor.call_later(0.002, look)

        look_first = reactor.call_later(0, look)
        reactor.run()
        look_first.cancel()
        assert condition(), f"not so within {timeout} s"

    return run_until


def wait_for(condition: Callable[[], object], timeout: float = DEADLINE) -> None:
    """Poll without a reactor."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout} s"
        time.sleep(0.002)


def in_python(code: str, *arguments: object, pass_fds: tuple[int, ...] = (), **environ: str) -> Any:
    """Run `code` in a fresh interpreter and return what it printed last, read as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        pass_fds=pass_fds,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
