"""`wsgi.file_wrapper`: what the kernel may send, and what has to be read."""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.serve.wsgi.filewrapper import FileWrapper
from tests.serve.harness import Harness, split_answers

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PROC = Path("/proc/version")  # a regular file of the kernel's: text, and no size


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"as it lies there")
    return path


def kernel_sends(filelike: Any) -> bool:
    part = FileWrapper(filelike).part()
    if part is not None:
        part.close()
    return part is not None


def body_of(make: Callable[[], Any], wrapper: type[FileWrapper] = FileWrapper, *headers: tuple[str, str]) -> bytes:
    """What a client is answered with that asks for a file."""

    def app(environ: dict[str, Any], start_response: Any) -> FileWrapper:
        start_response("200 OK", list(headers))
        return wrapper(make())

    with Harness(app, "wsgi") as server:
        ((status, _, body),) = split_answers(server.ask(GET))
    assert status == 200
    return body


class Lender:
    """Has its file's own method, as Django's `File`."""

    def __init__(self, file: Any) -> None:
        self.file = file

    @property
    def read(self) -> Any:
        return self.file.read


class Shouting:
    """Reads a file in capitals, by a method that says it wraps the file's."""

    def __init__(self, file: Any) -> None:
        inner = file.read

        @functools.wraps(inner)
        def read(size: int = -1, /) -> bytes:
            data: bytes = inner(size)
            return data.upper()

        self.read = read
        self.fileno, self.close = file.fileno, file.close


def temporary(content: bytes) -> Any:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - goes with its last reference
    file.write(content)
    file.seek(0)
    return file


@pytest.mark.parametrize("buffering", [0, -1])
def test_the_kernel_sends_a_file_of_pythons_own_and_who_lends_its_method(path: Path, buffering: int) -> None:
    with path.open("rb", buffering=buffering) as file, temporary(b"x") as lent:
        assert kernel_sends(file)
        assert kernel_sends(Lender(file))
        assert kernel_sends(lent)
        assert kernel_sends(Lender(lent))
        assert not kernel_sends(io.BytesIO(b"x"))


def test_what_a_read_says_to_wrap_is_not_sent_in_its_place(path: Path) -> None:
    with path.open("rb") as file, temporary(b"x") as lent:
        assert not kernel_sends(Shouting(file))
        assert not kernel_sends(Shouting(lent))
    assert body_of(lambda: Shouting(path.open("rb"))) == b"AS IT LIES THERE"
    assert body_of(lambda: Shouting(temporary(b"as it lies there"))) == b"AS IT LIES THERE"


@pytest.mark.parametrize("declared", [True, False])
def test_a_file_without_a_size_is_read(declared: bool) -> None:
    content = PROC.read_bytes()
    assert content
    headers = [("Content-Length", str(len(content)))] if declared else []
    assert body_of(lambda: PROC.open("rb"), FileWrapper, *headers) == content


def test_an_empty_file_is_an_empty_answer(path: Path) -> None:
    path.write_bytes(b"")
    assert body_of(lambda: path.open("rb")) == b""
    assert body_of(lambda: path.open("rb"), FileWrapper, ("Content-Length", "0")) == b""


class ByNext(FileWrapper):
    def __next__(self) -> bytes:
        return super().__next__().upper()


class ByIter(FileWrapper):
    def __iter__(self) -> Iterator[bytes]:
        yield b"its own"


@pytest.mark.parametrize(("wrapper", "body"), [(ByNext, b"AS IT LIES THERE"), (ByIter, b"its own")])
@pytest.mark.parametrize("declared", [True, False])
def test_a_wrapper_of_the_apps_own_is_iterated_over(
    path: Path, wrapper: type[FileWrapper], body: bytes, declared: bool
) -> None:
    headers = [("Content-Length", str(len(body)))] if declared else []
    assert body_of(lambda: path.open("rb"), wrapper, *headers) == body


def test_a_file_longer_than_declared_is_cut_there(path: Path) -> None:
    assert body_of(lambda: path.open("rb"), FileWrapper, ("Content-Length", "5")) == b"as it"
    assert body_of(lambda: io.BytesIO(b"as it lies"), FileWrapper, ("Content-Length", "5")) == b"as it"
    assert body_of(lambda: path.open("rb"), ByNext, ("Content-Length", "5")) == b"AS IT"
