"""A rehearsal plays a worker to its end, and leaves nothing behind but what it has warmed.

In a process of its own each: it is for a spawner, which has one thread and may give its standard streams away.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

SCRIPT = """
import asyncio, gc, json, os, signal, sys, warnings
from supervisor.config.settings import AppSettings
from supervisor.worker import rehearsal
from supervisor.worker.output import guard_standard_streams

def traces():
    gc.collect()
    return {
        "fds": len(os.listdir("/proc/self/fd")),
        "tasks": len(os.listdir("/proc/self/task")),
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)],
        "wakeup": signal.set_wakeup_fd(-1),
        "title": open("/proc/self/cmdline").read(),
        "streams": [id(sys.stdout), id(sys.stderr)],
    }

# change
guard_standard_streams()
signal.signal(signal.SIGTERM, lambda *_: None)
settings = AppSettings(name="web", app="module:app", **json.loads(sys.argv[2]))
interface = sys.argv[1]
went = [rehearsal.rehearse(settings, interface, None)]  # libuv keeps a pipe for signals, made with the first loop
before = traces()
went.append(rehearsal.rehearse(settings, interface, None))
after = traces()
try:
    asyncio.get_event_loop_policy().get_event_loop()
    loop = "left"
except (RuntimeError, DeprecationWarning):
    loop = "none"
print(json.dumps({"went": went, "before": before, "after": after, "loop": loop}))
"""


def rehearsed(interface: str, settings: dict[str, object], change: str = "") -> dict[str, Any]:
    """What two rehearsals in a row have come to, and what was there before and after the second."""
    command = [sys.executable, "-c", SCRIPT.replace("# change\n", change), interface, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("interface", "settings"),
    [
        ("asgi", {}),
        ("wsgi", {}),
        ("wsgi", {"threads": 8, "max_requests": 1, "max_inflight": 1}),
        ("asgi", {"proxy_protocol": True, "keepalive": 0.0, "ready_path": "/health", "ws_ping_interval": 0.0}),
    ],
)
def test_it_goes_as_it_should_and_leaves_nothing_behind(interface: str, settings: dict[str, object]) -> None:
    found = rehearsed(interface, settings)
    assert found["went"] == [True, True]
    assert found["after"] == found["before"]
    assert found["before"]["tasks"] == 1
    assert found["before"]["wakeup"] == -1
    assert found["loop"] == "none"


def test_what_goes_wrong_in_it_is_no_failure_of_the_release() -> None:
    found = rehearsed("asgi", {}, "rehearsal.Worker.live = lambda self: 1 / 0\n")
    assert found["went"] == [False, False]
    assert found["after"] == found["before"]


def test_it_does_not_wait_for_ever() -> None:
    stuck = "async def stuck(scope, receive, send):\n    await asyncio.sleep(3600)\n"
    stuck += "rehearsal._asgi, rehearsal.PATIENCE = stuck, 0.05\n"
    found = rehearsed("asgi", {}, stuck)
    assert found["went"] == [False, False]
