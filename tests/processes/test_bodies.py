"""Large bodies cost a worker no memory: 100 MB to a client that takes them slowly, and 100 MB into an app that does."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.processes.bodies_app import COUNT, PIECE
from tests.processes.cluster import Cluster
from tests.processes.releases import NO_BYTECODE
from tests.processes.web import dial, read_rest, read_until

pytestmark = pytest.mark.alone

SIZE = COUNT * len(PIECE)
ALLOWED = 5_000_000  # bytes of memory above an idle worker
WINDOW = 256 * 1024  # of the client's socket
SIP = 1 << 20  # bytes that the client takes before it is busy with something else for a moment
PAUSE_S = 0.01


class Served:
    """A cluster of one worker that serves `target` of `bodies_app`."""

    def __init__(self, folder: Path, target: str, tls: bool) -> None:
        shutil.copy(Path(__file__).with_name("bodies_app.py"), folder)
        (folder / "file").write_bytes(PIECE * COUNT)
        options = []
        self._context: ssl.SSLContext | None = None
        if tls:
            authority = trustme.CA()
            authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
            self._context = ssl.create_default_context()
            authority.configure_trust(self._context)
            options = ["--certfile", "both.pem"]
        self.target = target
        self.cluster = Cluster(folder, f"bodies_app:{target}", "-w", "1", *options, env=NO_BYTECODE)

    @contextlib.contextmanager
    def dial(self) -> Iterator[socket.socket]:
        with dial(self.cluster.bind) as client:
            if self._context is None:
                yield client
                return
            with self._context.wrap_socket(client, server_hostname="localhost") as secure:
                yield secure

    @contextlib.contextmanager
    def spared(self) -> Iterator[None]:
        """The worker's memory grows by no more than what is allowed, not for a moment (proc(5), VmHWM)."""
        (worker,) = self.cluster.workers()
        process = Path(f"/proc/{worker['pid']}")
        (process / "clear_refs").write_text("5")
        before = _memory(process, "VmRSS")
        yield
        grown = _memory(process, "VmHWM") - before
        assert grown < ALLOWED, f"the worker has grown by {grown:,} bytes"


def _memory(process: Path, which: str) -> int:
    match = re.search(rf"^{which}:\s+([0-9]+) kB$", (process / "status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


@pytest.fixture(
    scope="module",
    params=[("plain", False), ("plain", True), ("starlette", False), ("fastapi", False), ("django_asgi", False)],
    ids=["plain", "TLS", "Starlette", "FastAPI", "Django"],
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("bodies")
    served = Served(folder, *request.param)
    with served.cluster:
        for method, body in (("GET", b""), ("POST", b"x" * 100_000)):  # code that a first request brings is no body's
            with served.dial() as client:
                head = f"{method} /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
                client.sendall(f"{head}\r\n".encode() + body)
                assert read_rest(client).startswith(b"HTTP/1.1 200 ")
        yield served
    (folder / "file").unlink()


def sip(client: socket.socket) -> int:
    """Read to the end, slowly; returns how many bytes it was."""
    total = paused = 0
    while data := client.recv(65536):
        total += len(data)
        if total - paused >= SIP:
            paused = total
            time.sleep(PAUSE_S)
    return total


@pytest.mark.parametrize("path", ["/answer", "/file"])
def test_a_large_answer_to_a_slow_client(served: Served, path: str) -> None:
    if served.target == "django_asgi" and path == "/file":
        pytest.skip("Django reads its files itself, as any other stream")
    with served.spared(), served.dial() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        assert sip(client) > SIZE - (1 << 20)


def sized(client: socket.socket) -> None:
    client.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % SIZE)
    for _ in range(COUNT):
        client.sendall(PIECE)


def chunked(client: socket.socket) -> None:
    client.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(COUNT):
        client.sendall(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
    client.sendall(b"0\r\n\r\n")


@pytest.mark.parametrize("write", [sized, chunked])
def test_a_large_upload_into_a_slow_app(served: Served, write: Callable[[socket.socket], None]) -> None:
    with served.spared(), served.dial() as client:
        write(client)
        assert read_rest(client).endswith(b"\r\n\r\n%d" % SIZE)
