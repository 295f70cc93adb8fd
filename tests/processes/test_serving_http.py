"""HTTP/1.1 as a client of a real cluster sees it; the finer points of the protocol are tested in tests/serve."""

from __future__ import annotations

import select
import shutil
import socket
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.web import Visitor, ask, dial, read_rest, read_until

ENOUGH = 50_000_000  # bytes that would be sent and received if nobody held back


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("wire")
    shutil.copy(Path(__file__).with_name("wire_app.py"), folder)
    with Cluster(folder, "wire_app:app", "-w", "1", "--keepalive", "1", "--drain-timeout", "0.2") as cluster:
        yield cluster


def told(served: Cluster, what: str) -> int:
    count: int = ask(served.bind, "/told").json()[what]
    return count


def test_a_connection_is_kept_alive_from_request_to_request(served: Cluster) -> None:
    visitor = Visitor(served.bind)
    assert visitor.ask("/one").text == "/one"
    port = visitor.sock.getsockname()[1]
    assert visitor.ask("/two", "POST", b"body").text == "body"
    assert visitor.sock.getsockname()[1] == port
    visitor.close()


def test_pipelined_requests_are_answered_in_order(served: Cluster) -> None:
    with dial(served.bind) as client:
        heads = [f"GET /{number} HTTP/1.1\r\nHost: x\r\n" for number in range(5)]
        client.sendall(("\r\n".join(heads) + "Connection: close\r\n\r\n").encode())
        answers = read_rest(client).split(b"HTTP/1.1 200 OK")[1:]
        assert [answer[-2:] for answer in answers] == [b"/0", b"/1", b"/2", b"/3", b"/4"]


def test_bodies_may_be_chunked_both_ways(served: Cluster) -> None:
    with dial(served.bind) as client:
        client.sendall(
            b"POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        assert read_until(client, b"abcde").endswith(b"\r\n\r\nabcde")
        client.sendall(b"GET /pieces HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = read_until(client, b"0\r\n\r\n")
        assert b"transfer-encoding: chunked" in answer.lower()
        assert answer.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")


def settled(served: Cluster, what: str) -> int:
    """The count once it has stopped growing."""
    seen = [-1, told(served, what)]

    def is_still() -> bool:
        seen.append(told(served, what))
        return seen[-1] == seen[-6:][0] and len(seen) > 6

    until(f"{what} stops growing", is_still)
    return seen[-1]


def test_an_app_that_sends_faster_than_its_client_takes_is_held_back(served: Cluster) -> None:
    with dial(served.bind) as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        before = settled(served, "sent")
        assert 0 < before < ENOUGH
        taken = 0
        while taken < 2 * before:
            taken += len(client.recv(1 << 20))
        assert told(served, "sent") > before, "and goes on when the client does"


def test_a_client_that_sends_faster_than_the_app_takes_is_held_back(served: Cluster) -> None:
    with dial(served.bind) as client:
        client.sendall(b"POST /sluggish HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % ENOUGH)
        sent = 0
        while sent < ENOUGH and select.select([], [client], [], 0.5)[1]:
            sent += client.send(b"x" * 16384)
        assert sent < ENOUGH
        assert told(served, "received") > 0


def test_head_is_answered_with_the_headers_alone(served: Cluster) -> None:
    with dial(served.bind) as client:
        client.sendall(b"HEAD /path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = read_rest(client)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"content-length: 5\r\n" in answer.lower()
        assert answer.endswith(b"\r\n\r\n")


def test_expect_100_continue_is_answered_when_the_app_asks_for_the_body(served: Cluster) -> None:
    with dial(served.bind) as client:
        client.sendall(b"POST /up HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert read_until(client, b"abc").startswith(b"HTTP/1.1 200 OK")


def test_the_app_is_told_when_its_client_disconnects(served: Cluster) -> None:
    with dial(served.bind) as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        until("the app waits", lambda: told(served, "waits") == 1)
        assert told(served, "disconnects") == 0
    until("the app knows", lambda: told(served, "disconnects") == 1)


def test_a_head_above_the_limit_is_refused(served: Cluster) -> None:
    with dial(served.bind) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + 70 * (b"X-Filler: " + b"x" * 1000 + b"\r\n"))
        assert read_rest(client).startswith(b"HTTP/1.1 431 ")
    assert ask(served.bind, "/" + "x" * 10_000).status == 414


def test_an_idle_connection_is_closed_after_keepalive_and_not_before(served: Cluster) -> None:
    with dial(served.bind) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        read_until(client, b"\r\n\r\n/")
        began = time.monotonic()
        assert client.recv(1) == b""
        assert 0.9 < time.monotonic() - began < 5


def test_answers_have_a_date_and_a_server(served: Cluster) -> None:
    headers = ask(served.bind).headers
    assert headers["server"] == "holdfast"
    assert abs(parsedate_to_datetime(headers["date"]).timestamp() - time.time()) < 5


def test_nagle_does_not_delay_an_answer(served: Cluster) -> None:
    visitor = Visitor(served.bind)
    began = time.monotonic()
    for number in range(10):
        assert visitor.ask(f"/pieces?{number}").text == "onetwothree"
    assert time.monotonic() - began < 0.3, "forty milliseconds each with Nagle's algorithm and delayed acknowledgements"
    assert visitor.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    visitor.close()
