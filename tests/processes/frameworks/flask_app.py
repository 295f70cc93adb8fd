"""The service in Flask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, jsonify, request

RELEASE = Path("release").read_text()

app = Flask(__name__)


@app.after_request
def mark(response: Response) -> Response:
    response.headers.update({"x-pid": str(os.getpid()), "x-release": RELEASE})
    return response


@app.route("/echo", methods=["GET", "POST"])
def echo() -> Response:
    return Response(request.get_data() if request.method == "POST" else request.query_string)


@app.get("/items/<int:number>")
def item(number: int) -> Response:
    return jsonify(item=number, greeting="hello")


@app.get("/stream")
def stream() -> Response:
    def pieces() -> Iterator[bytes]:
        for number in range(1000):
            yield b"%03d," % number

    return Response(pieces())


@app.get("/error")
def error() -> Response:
    raise LookupError("no such luck")
