"""The WSGI app that every server is measured with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("content-type", "text/plain"), ("content-length", "13")])
    return [b"Hello, World!"]
