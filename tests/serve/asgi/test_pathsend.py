"""`http.response.pathsend` over real connections: files as bodies of ASGI answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.kernel.board import Cell
from supervisor.serve.http1 import sendfile
from supervisor.serve.limits import Limits
from tests.serve.harness import Harness, eventually, read_all, read_until, split_answers

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
TRAILERS = b"GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
LARGE = 8 << 20  # more than the kernel takes of a connection whose client does not read
SIZES = (0, 1, 65_535, 65_536, LARGE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A file of each size."""
    folder = tmp_path_factory.mktemp("files")
    pattern = os.urandom(LARGE)
    found = {}
    for size in SIZES:
        found[size] = folder / str(size)
        found[size].write_bytes(pattern[:size])
    return found


class Sender:
    """Answers with the file at `path`. `errors` are what `send` raised; `returned` counts the files that were sent."""

    def __init__(self, path: Any, *headers: tuple[bytes, bytes], status: int = 200, trailers: bool = False) -> None:
        self.path = str(path)
        self.start = {"type": "http.response.start", "status": status, "headers": headers, "trailers": trailers}
        self.errors: list[BaseException] = []
        self.returned = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert "http.response.pathsend" in scope["extensions"]
        try:
            await send(self.start)
            await send({"type": "http.response.pathsend", "path": self.path})
            self.returned += 1
            if self.start["trailers"]:
                await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"12")]})
        except BaseException as error:
            self.errors.append(error)
            raise


@contextlib.contextmanager
def served(app: Callable[..., Any], **more: Any) -> Any:
    """A harness that leaves no descriptor open."""
    with Harness(app, **more) as server:
        server.ask(b"GET nothing\r\n\r\n")  # what a loop opens once
        before = len(os.listdir("/proc/self/fd"))
        yield server
        eventually(lambda: server.service.connections == 0)
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("declared", [True, False])
def test_a_file_is_the_body_and_the_connection_lives_on(files: dict[int, Path], size: int, declared: bool) -> None:
    content = files[size].read_bytes()
    app = Sender(files[size], *([(b"content-length", b"%d" % size)] if declared else []))
    with served(app) as server:
        answers = split_answers(server.ask(GET * 3))
        assert [(status, headers["content-length"]) for status, headers, _ in answers] == [(200, str(size))] * 3
        assert all(body == content for _, _, body in answers)
        assert server.cell(Cell.FINISHED) == app.returned == 3


def test_http_1_0_keeps_its_connection_too(files: dict[int, Path]) -> None:
    with served(Sender(files[LARGE])) as server:
        answers = split_answers(server.ask(OLD * 2))
        assert [len(body) for _, _, body in answers] == [LARGE, LARGE]
        assert answers[0][1]["connection"] == "keep-alive"


@pytest.mark.parametrize(("status", "asked"), [(200, HEAD), (304, GET), (204, GET)])
@pytest.mark.parametrize("size", [1, LARGE])
def test_no_file_goes_where_there_is_no_body(files: dict[int, Path], status: int, asked: bytes, size: int) -> None:
    with served(Sender(files[size], status=status)) as server:
        data = server.ask(asked * 2)
        assert data.count(b"HTTP/1.1 ") == 2
        assert data.endswith(b"\r\n\r\n")
        assert (b"content-length: %d" % size in data) == (asked is HEAD)


@pytest.mark.parametrize("size", [1, LARGE])
def test_a_file_may_have_trailers(files: dict[int, Path], size: int) -> None:
    with served(Sender(files[size], trailers=True)) as server:
        data = server.ask(TRAILERS)
        head, _, rest = data.partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert rest == b"%x\r\n" % size + files[size].read_bytes() + b"\r\n0\r\nx-sum: 12\r\n\r\n"
        assert [len(body) for _, _, body in split_answers(server.ask(GET * 2))] == [size, size]


def sizeless(path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The content of a file at `path` that has so many bytes and says that it has none, as the kernel's own do."""
    content = os.urandom(size)
    path.write_bytes(content)
    monkeypatch.setattr(sendfile, "_size", lambda fd: 0)
    return content


def test_a_file_of_the_kernels_own_is_read() -> None:
    content = Path("/proc/version").read_bytes()
    assert content
    with served(Sender("/proc/version")) as server:
        answers = split_answers(server.ask(GET * 2))
        assert [(headers["content-length"], body) for _, headers, body in answers] == [(str(len(content)), content)] * 2
        assert server.ask(HEAD).endswith(b"content-length: %d\r\n\r\n" % len(content))


@pytest.mark.parametrize("size", [1, sendfile.PIECE - 1, sendfile.PIECE, sendfile.PIECE * 2 + 1, LARGE])
@pytest.mark.parametrize("declared", [True, False])
def test_a_file_without_a_size_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, declared: bool
) -> None:
    content = sizeless(tmp_path / "file", size, monkeypatch)
    app = Sender(tmp_path / "file", *([(b"content-length", b"%d" % size)] if declared else []))
    with served(app) as server:
        assert [body for _, _, body in split_answers(server.ask(GET * 2))] == [content] * 2
        assert [body for _, _, body in split_answers(server.ask(OLD))] == [content]
        assert server.ask(HEAD).count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("size", [0, 1, LARGE])
def test_a_file_without_a_size_may_have_trailers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    content = sizeless(tmp_path / "file", size, monkeypatch)
    with served(Sender(tmp_path / "file", trailers=True)) as server:
        data = server.ask(TRAILERS)
        assert data.endswith(b"\r\n0\r\nx-sum: 12\r\n\r\n")
        plain = data.replace(b"0\r\nx-sum: 12\r\n\r\n", b"0\r\n\r\n")
        assert [body for _, _, body in split_answers(plain)] == [content]


def test_a_file_without_a_size_and_of_another_length_than_declared_is_a_500_and_one_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with served(Sender("/proc/version", (b"content-length", b"0"))) as server:
        assert [status for status, _, _ in split_answers(server.ask(GET * 2))] == [500]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("holdfast: GET /: the app declared 0 bytes and answered ")


def test_no_more_of_a_file_without_a_size_is_read_than_its_client_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizeless(tmp_path / "file", LARGE, monkeypatch)
    pieces: list[int] = []
    real = sendfile.FilePart.piece

    def piece(part: sendfile.FilePart) -> bytes:
        data = real(part)
        pieces.append(len(data))
        return data

    monkeypatch.setattr(sendfile.FilePart, "piece", piece)
    app = Sender(tmp_path / "file")
    with served(app, limits=Limits(write_idle=0.1)) as server, server.connect() as sock:
        sock.sendall(GET)
        eventually(lambda: app.errors)
        assert isinstance(app.errors[0], OSError)
        assert max(pieces) == sendfile.PIECE
        assert sum(pieces) < LARGE


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda folder: folder / "missing", "No such file or directory"),
        (lambda folder: folder, "not a regular file"),
        (lambda folder: fifo(folder / "fifo"), "not a regular file"),
        (lambda folder: "a\0b", "embedded null byte"),
        (lambda folder: f"{folder}/line\nbreak", "No such file or directory"),
    ],
)
def test_a_file_that_can_t_be_opened_is_a_500_and_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, make: Callable[[Path], Any], why: str
) -> None:
    with served(Sender(make(tmp_path))) as server:
        assert [status for status, _, _ in split_answers(server.ask(GET * 2))] == [500]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("holdfast: GET /: the app's file '")
    assert line.endswith(f" can't be sent: {why}")


@pytest.mark.parametrize("size", [1, LARGE])
@pytest.mark.parametrize("off", [-1, 1])
def test_a_file_of_another_size_than_declared_is_a_500_and_one_line(
    capfd: pytest.CaptureFixture[str], files: dict[int, Path], size: int, off: int
) -> None:
    with served(Sender(files[size], (b"content-length", b"%d" % (size + off)))) as server:
        assert [status for status, _, _ in split_answers(server.ask(GET * 2))] == [500]
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"holdfast: GET /: the app declared {size + off} bytes and answered {size}"


def test_the_app_goes_on_when_the_kernel_has_taken_the_file(files: dict[int, Path]) -> None:
    app = Sender(files[LARGE])
    with served(app) as server, server.connect() as sock:
        sock.sendall(GET)
        data = read_until(sock, b"\r\n\r\n")
        assert server.service.inflight == 1
        assert app.returned == 0
        while len(data) < LARGE:
            data += sock.recv(65536)
        eventually(lambda: app.returned == 1)
        assert server.service.inflight == 0


def test_a_client_that_goes_is_told_to_the_app_and_to_nobody_else(
    capfd: pytest.CaptureFixture[str], files: dict[int, Path]
) -> None:
    app = Sender(files[LARGE])
    with served(app) as server:
        with server.connect() as sock:
            sock.sendall(GET)
            sock.recv(100)
        eventually(lambda: app.errors)
        assert isinstance(app.errors[0], OSError)
        eventually(lambda: server.service.inflight == 0)
        assert server.cell(Cell.CUT) == 0
    assert capfd.readouterr().err == ""


def test_a_client_that_takes_nothing_is_given_up(files: dict[int, Path]) -> None:
    app = Sender(files[LARGE])
    with served(app, limits=Limits(write_idle=0.1)) as server, server.connect() as sock:
        sock.sendall(GET)
        eventually(lambda: app.errors)
        assert isinstance(app.errors[0], OSError)
        eventually(lambda: server.service.connections == 0)


def test_a_file_that_shrinks_cuts_the_answer_and_is_one_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "shrinks"
    path.write_bytes(bytes(LARGE))
    app = Sender(path)
    with served(app) as server, server.connect() as sock:
        sock.sendall(GET)
        read_until(sock, b"\r\n\r\n")
        os.truncate(path, 1 << 20)
        with contextlib.suppress(ConnectionResetError):
            assert len(read_all(sock)) < LARGE
        eventually(lambda: server.cell(Cell.CUT) == 1)
        eventually(lambda: app.errors)
        assert isinstance(app.errors[0], OSError)
    assert capfd.readouterr().err.startswith("holdfast: GET /: the file can't be read: it ends ")


@pytest.mark.parametrize("kind", ["http.response.body", "http.response.pathsend"])
def test_a_file_is_the_whole_body(capfd: pytest.CaptureFixture[str], files: dict[int, Path], kind: str) -> None:
    path = str(files[LARGE])

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        if kind == "http.response.body":
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await send({"type": "http.response.pathsend", "path": path})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await send({"type": "http.response.pathsend", "path": path})
        await send({"type": "http.response.pathsend", "path": path})

    with served(app) as server, server.connect() as sock:
        sock.sendall(GET)
        eventually(lambda: server.cell(Cell.CUT) == 1)
        with contextlib.suppress(ConnectionResetError):
            read_all(sock)
    where = "in its body" if kind == "http.response.body" else "being sent from a file"
    assert f"the app sent 'http.response.pathsend' where the answer was {where}\n" in capfd.readouterr().err


def test_an_app_that_gives_up_sends_no_more_of_the_file(files: dict[int, Path]) -> None:
    given_up = asyncio.Event()
    go = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await send({"type": "http.response.pathsend", "path": str(files[LARGE])})
        given_up.set()
        await go.wait()

    with served(app) as server, server.connect() as sock:
        sock.sendall(GET)
        eventually(given_up.is_set)
        (connection,) = server.service.roster
        assert server.call(lambda: connection.file) is None
        server.call(go.set)
        with contextlib.suppress(ConnectionResetError):
            assert len(read_all(sock)) < LARGE
        eventually(lambda: server.cell(Cell.CUT) == 1)


def test_other_requests_are_served_while_files_wait_for_their_clients(files: dict[int, Path]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        if scope["path"] == "/file":
            await send({"type": "http.response.pathsend", "path": str(files[LARGE])})
        else:
            await send({"type": "http.response.body", "body": b"ok"})

    with served(app) as server, contextlib.ExitStack() as stack:
        slow: list[socket.socket] = [stack.enter_context(server.connect()) for _ in range(8)]
        for sock in slow:
            sock.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        eventually(lambda: server.service.inflight == 8)
        assert [body for _, _, body in split_answers(server.ask(GET * 50))] == [b"ok"] * 50
        for sock in slow:
            assert len(split_answers(read_all(sock))[0][2]) == LARGE
