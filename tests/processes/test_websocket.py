"""Open WebSockets in real clusters: sent away by a roll and by a stop, back with the new release, in nobody's way."""

from __future__ import annotations

import contextlib
import signal
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.processes.cluster import Cluster, until

APP = """
RELEASE = {release!r}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await receive()
    await send({{"type": "websocket.accept"}})
    while (message := await receive())["type"] == "websocket.receive":
        await send({{"type": "websocket.send", "text": RELEASE}})
    {at_the_end}
"""


def write(folder: Path, release: str, at_the_end: str = "pass") -> None:
    (folder / "app.py").write_text(
        "import asyncio\n" + textwrap.dedent(APP).format(release=release, at_the_end=at_the_end)
    )


@contextlib.contextmanager
def serving(folder: Path, *arguments: str, at_the_end: str = "pass") -> Iterator[Cluster]:
    write(folder, "first", at_the_end)
    with Cluster(folder, "app:app", "-w", "2", *arguments, env={"PYTHONDONTWRITEBYTECODE": "1"}) as cluster:
        yield cluster


def open_many(cluster: Cluster, stack: contextlib.ExitStack, count: int) -> list[ClientConnection]:
    clients = [stack.enter_context(connect(f"ws://{cluster.bind}/", close_timeout=2)) for _ in range(count)]
    for client in clients:
        assert release_of(client) == "first"
    return clients


def release_of(client: ClientConnection) -> str | bytes:
    client.send("which?")
    return client.recv(timeout=10)


def end_of(client: ClientConnection) -> int | None:
    """The code that the server closes with."""
    try:
        client.recv(timeout=20)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None
    raise AssertionError("a message where the end was expected")


def test_a_roll_sends_websockets_to_the_new_release(tmp_path: Path) -> None:
    with serving(tmp_path) as cluster, contextlib.ExitStack() as stack:
        clients = open_many(cluster, stack, 40)
        until("all counted", lambda: sum(worker["connections"] for worker in cluster.workers()) == 40)
        assert sum(worker["inflight"] for worker in cluster.workers()) == 0
        write(tmp_path, "second")
        assert cluster.roll()["verdict"] == "committed"
        assert {end_of(client) for client in clients} == {1012}
        assert release_of(stack.enter_context(connect(f"ws://{cluster.bind}/"))) == "second"
        until("the old workers gone", lambda: all(worker["generation"] == 2 for worker in cluster.app()["workers"]))
        assert cluster.app()["totals"]["lost"] == 0
        assert "Traceback" not in cluster.log


def test_a_stop_sends_websockets_away_and_waits_for_none(tmp_path: Path) -> None:
    with serving(tmp_path) as cluster, contextlib.ExitStack() as stack:
        clients = open_many(cluster, stack, 20)
        began = time.monotonic()
        cluster.kill(signal.SIGTERM)
        assert {end_of(client) for client in clients} == {1012}
        assert cluster.wait_exit() == 0
        assert time.monotonic() - began < 5.0
        assert cluster.leftovers() == {}


def test_an_app_that_stays_after_the_end_of_its_client_is_cut_with_the_drain(tmp_path: Path) -> None:
    at_the_end = "await asyncio.sleep(600)"
    with serving(tmp_path, "--drain-timeout", "1", at_the_end=at_the_end) as cluster, contextlib.ExitStack() as stack:
        (client,) = open_many(cluster, stack, 1)
        began = time.monotonic()
        cluster.kill(signal.SIGTERM)
        assert end_of(client) == 1012
        assert cluster.wait_exit() == 0
        assert 0.9 < time.monotonic() - began < 5.0
        assert cluster.leftovers() == {}
