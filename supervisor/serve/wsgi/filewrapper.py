"""`wsgi.file_wrapper` (PEP 3333 section "Optional Platform-Specific File Handling").

Invariant: the kernel sends a file only where reading it would give the same bytes. `fileno` alone proves nothing:
a decompressing reader has the descriptor of what it reads from, and so does a wrapper whose class reads in its own way.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, Protocol

from supervisor.serve.http1.sendfile import FilePart

_BLOCK = 64 * 1024  # bytes read at once when the app does not say


class FileLike(Protocol):
    """What an app may wrap. A `close` is called in the end, when there is one."""

    def read(self, size: int, /) -> bytes: ...


class FileWrapper:
    """An app's result that is the rest of a file. Iterating reads it in blocks; the server may know better."""

    def __init__(self, filelike: FileLike, block_size: int = _BLOCK) -> None:
        self.filelike: Any = filelike
        self.block_size = block_size
        if hasattr(filelike, "close"):
            self.close: Callable[[], object] = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block: bytes = self.filelike.read(self.block_size)
        if not block:
            raise StopIteration
        return block

    # For frameworks that answer a range of the wrapper itself, as Werkzeug does.

    def seekable(self) -> bool:
        seekable = getattr(self.filelike, "seekable", None)
        return seekable is not None and bool(seekable())

    def seek(self, offset: int, whence: int = 0, /) -> int:
        position: int = self.filelike.seek(offset, whence)
        return position

    def tell(self) -> int:
        position: int = self.filelike.tell()
        return position

    # For the server.

    def first(self, size: int) -> Iterator[bytes]:
        """Its blocks up to `size` bytes: a file longer than the declared Content-Length is cut there."""
        blocks = self._blocks(size) if type(self) is FileWrapper else self  # a subclass may make them in its own way
        for block in blocks:
            yield block[:size]
            size -= len(block)
            if size <= 0:
                return

    def _blocks(self, size: int) -> Iterator[bytes]:
        """What there is up to `size` bytes, and nothing read beyond them."""
        while size > 0 and (block := self.filelike.read(min(size, self.block_size))):
            size -= len(block)
            yield block

    def part(self) -> FilePart | None:
        """From the file's position to its end, if the kernel can send that."""
        file = _plain_file(self.filelike) if type(self) is FileWrapper else None
        if file is None:
            return None
        try:
            if file.writable():
                file.flush()
            return FilePart.rest(file.fileno(), file.tell())
        except (OSError, ValueError):  # not seekable, or without a size; closed
            return None


def _plain_file(filelike: object) -> io.BufferedReader | io.BufferedRandom | io.FileIO | None:
    """The file of Python's own whose method `filelike.read` really is: wrappers hand that out (`tempfile`, Django)."""
    read = getattr(filelike, "read", None)
    if getattr(read, "__code__", None) in _PASSES_ON:
        read = getattr(read, "__wrapped__", None)
    file = getattr(read, "__self__", None)
    if type(file) is io.FileIO:
        return file
    if isinstance(file, (io.BufferedReader, io.BufferedRandom)) and type(file).read in _READS:
        return file if type(file.raw) is io.FileIO else None
    return None


_READS = (io.BufferedReader.read, io.BufferedRandom.read)

# Anybody's `read` may say that it wraps another; `tempfile`'s does nothing but call it.
_PASSES_ON = [
    constant
    for constant in tempfile._TemporaryFileWrapper.__getattr__.__code__.co_consts
    if isinstance(constant, CodeType)
]
