"""The benchmarks' client with a timetable, against servers that are made to fail it."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PACED = Path(__file__).parents[2] / "scripts" / "benchmarks" / "paced.go"
GO = shutil.which("go")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Reply = Callable[[int], bytes]  # what the request of this number is answered with; nothing is the connection's end

pytestmark = pytest.mark.skipif(GO is None, reason="no Go")


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("go")

    async def build() -> int:
        environment = {"GOCACHE": str(folder / "cache"), "HOME": str(folder), "PATH": str(Path(str(GO)).parent)}
        process = await asyncio.create_subprocess_exec(
            str(GO), "build", "-o", str(folder / "paced"), str(PACED), env=environment
        )
        return await process.wait()

    assert asyncio.run(build()) == 0
    return str(folder / "paced")


def ask(paced: str, reply: Reply, rate: int, seconds: float) -> tuple[dict[str, Any], str]:
    """What the client prints about such a server, and what it complains of."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while (await reader.read(4096)).endswith(b"\r\n\r\n"):
            asked += 1
            if not (answer := reply(asked)):
                break
            writer.write(answer)
            if b"close" in answer:
                break
        writer.close()

    async def run() -> tuple[dict[str, Any], str]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        arguments = [str(server.sockets[0].getsockname()[1]), "/", "8", str(rate), str(seconds)]
        process = await asyncio.create_subprocess_exec(
            paced, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, complaint = await process.communicate()
        server.close()
        return json.loads(out or b"{}"), complaint.decode()

    return asyncio.run(run())


def test_a_pause_is_in_the_time_of_all_who_were_due_meanwhile(paced: str) -> None:
    def reply(number: int) -> bytes:
        if number == 400:
            time.sleep(0.5)
        return ANSWER

    seen, _ = ask(paced, reply, 500, 2)
    assert seen["p50_s"] < 0.1
    assert seen["p90_s"] > 0.2, "a closed loop has 8 requests in the pause, less than one in a hundred"
    assert 0.4 < seen["max_s"] < 1.5
    assert seen["broken"] == seen["unanswered"] == seen["non_2xx"] == 0


def test_the_rate_that_is_reached_is_the_servers(paced: str) -> None:
    def reply(_number: int) -> bytes:
        time.sleep(0.005)
        return ANSWER

    seen, _ = ask(paced, reply, 1000, 1)
    assert seen["rate_wanted"] == 1000
    assert seen["rate_reached"] <= 200
    assert seen["unanswered"] > 200
    assert seen["p99_s"] > 1.0, "who is never answered has waited until the end"


def test_what_has_no_answer_is_counted_and_the_timetable_goes_on(paced: str) -> None:
    failure = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    leaving = ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    replies = {0: b"", 10: failure, 20: leaving}
    seen, _ = ask(paced, lambda number: replies.get(number % 50, ANSWER), 400, 1)
    assert 6 <= seen["broken"] <= 10
    assert 6 <= seen["non_2xx"] <= 10
    assert seen["unanswered"] == 0
    assert seen["rate_reached"] > 320


def test_an_answer_that_it_cannot_read_is_an_error(paced: str) -> None:
    seen, complaint = ask(paced, lambda _: b"HTTP/1.1 200 OK\r\n\r\n", 100, 1)
    assert seen == {}
    assert complaint == "paced: an answer without content-length\n"
