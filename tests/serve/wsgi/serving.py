"""What tests of WSGI apps share."""

from __future__ import annotations

from typing import Any

from tests.serve.harness import Harness, split_answers

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Environ = dict[str, Any]


def serve(app: Any, threads: int, **more: Any) -> Harness:
    return Harness(app, "wsgi", threads=threads, **more)


def answer(server: Harness, raw: bytes = GET) -> tuple[int, dict[str, str], bytes]:
    (found,) = split_answers(server.ask(raw))
    return found
