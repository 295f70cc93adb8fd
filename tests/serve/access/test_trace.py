"""Names of requests: taken from trusted peers, made for the others, and never twice the same."""

from __future__ import annotations

import copy
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import zttp

from supervisor.serve.access.trace import Trace
from tests.serve.harness import Harness, http, read_until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MADE = re.compile("[0-9a-f]{32}")


def trace(*lines: str, trusted: bool = True) -> Trace:
    head = "".join(f"{line}\r\n" for line in ("GET / HTTP/1.1", "Host: x", *lines)) + "\r\n"
    request = zttp.Connection(zttp.SERVER).receive_event(head.encode("latin-1"))
    assert isinstance(request, zttp.Request)
    return Trace(request, trusted, SimpleNamespace(draining=threading.Event(), named=lambda name: None))


def test_a_trusted_peers_names_are_taken() -> None:
    told = trace("X-Request-ID: a-1", f"traceparent: {PARENT}")
    assert dict(told) == {"request_id": "a-1", "traceparent": PARENT, "draining": told.bridge.draining}


def test_without_a_request_id_the_trace_is_the_request() -> None:
    assert trace(f"traceparent: {PARENT}")["request_id"] == "0af7651916cd43dd8448eb211c80319c"


def test_others_cannot_name_their_requests() -> None:
    told = trace("X-Request-ID: a-1", f"traceparent: {PARENT}", trusted=False)
    assert MADE.fullmatch(told["request_id"])
    assert told["traceparent"].startswith(f"00-{told['request_id']}-")


@pytest.mark.parametrize(
    "line",
    [
        "X-Request-ID: ",
        "X-Request-ID: a b",
        'X-Request-ID: a"',
        "X-Request-ID: \xe4",
        "X-Request-ID: " + "x" * 129,
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        f"traceparent: {PARENT.upper()}",
        f"traceparent: ff{PARENT[2:]}",
        f"traceparent: {PARENT}-",
        f"traceparent: {PARENT}-00",
        f"traceparent: cc{PARENT[2:]}.00",
        f"traceparent: 00-{'0' * 32}-b7ad6b7169203331-01",
        f"traceparent: 00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
    ],
)
def test_a_name_that_is_malformed_is_made_anew(line: str) -> None:
    told = trace(line)
    assert MADE.fullmatch(told["request_id"])
    assert re.fullmatch(f"00-{told['request_id']}-[0-9a-f]{{16}}-00", told["traceparent"])


@pytest.mark.parametrize(("first", "second"), [("a-1", "a-2"), ("a-1", "a-1"), ("a-1", ""), ("", "a-1")])
def test_of_two_names_none_is_taken_for_one_may_be_the_clients(first: str, second: str) -> None:
    told = trace(f"X-Request-ID: {first}", f"X-Request-ID: {second}")
    assert MADE.fullmatch(told["request_id"])
    other = PARENT.replace("0af7", "0bf7")
    told = trace(f"traceparent: {PARENT}", f"traceparent: {other}")
    assert re.fullmatch(f"00-{told['request_id']}-[0-9a-f]{{16}}-00", told["traceparent"])
    assert told["request_id"] not in PARENT + other


@pytest.mark.parametrize("more", ["", "-", "-00", "-what the future brings"])
@pytest.mark.parametrize(("flags", "known"), [("01", "01"), ("fe", "00"), ("ff", "01")])
def test_of_a_later_version_of_traceparent_is_taken_what_this_one_knows(more: str, flags: str, known: str) -> None:
    told = trace(f"traceparent: cc{PARENT[2:53]}{flags}{more}")
    assert told["traceparent"] == PARENT[:53] + known
    assert told["request_id"] == PARENT[3:35]


def test_the_flags_of_the_version_that_is_known_stay_as_they_are() -> None:
    assert trace(f"traceparent: {PARENT[:53]}fe")["traceparent"] == PARENT[:53] + "fe"


def test_a_trace_is_a_mapping_that_keeps_to_its_answer() -> None:
    told = trace()
    assert told["request_id"] == told.get("request_id") == dict(told)["request_id"]
    assert list(told) == ["request_id", "traceparent", "draining"]
    assert len(told) == 3
    assert "request_id" in told
    assert "other" not in told
    assert told.get("other", 5) == 5
    with pytest.raises(KeyError):
        told["other"]


def test_a_trace_has_all_that_a_mapping_has_for_readers() -> None:
    told = trace()
    same = {"request_id": told["request_id"], "traceparent": told["traceparent"], "draining": told["draining"]}
    assert isinstance(told, Mapping)
    assert all(hasattr(told, name) for name in dir(Mapping) if not name.startswith("_"))
    assert (list(told.keys()), list(told.values())) == (list(same), list(same.values()))
    assert told.keys() & {"draining", "other"} == {"draining"}
    assert dict(told.items()) == {**told} == same
    assert told == same
    assert same == told
    assert told != {**same, "other": 1}
    assert told != trace()
    assert told != 5
    match told:
        case {"request_id": name}:
            assert name == told["request_id"]
        case _:
            raise AssertionError("no mapping to a match statement")
    with pytest.raises(TypeError):
        hash(told)


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_a_copy_has_the_same_names_whoever_is_asked_first(copier: Callable[[Trace], Trace]) -> None:
    told = trace()
    assert copier(told)["request_id"] == told["request_id"]
    assert copier(told)["draining"] is told["draining"]


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_a_scope_can_be_copied(copier: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scopes.extend((copier(scope), scope))
        await tell(scopes[0], receive, send)

    with Harness(http(app)) as harness, harness.connect() as sock:
        name = asked(sock, "r-1")["request_id"]
    assert scopes[0] == scopes[1]
    assert scopes[1]["extensions"]["holdfast"]["request_id"] == name == "r-1"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the test runner may have threads; the child only asks
def test_names_made_by_many_threads_and_after_a_fork_are_different() -> None:
    made: list[str] = []

    def make() -> None:
        made.extend(trace()["request_id"] for _ in range(2000))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, trace()["request_id"].encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        made.append(pipe.read().decode())
    assert os.waitpid(child, 0)[1] == 0
    made.append(trace()["request_id"])
    assert len(set(made)) == len(made) == 8002
    assert made[-1][:30] != made[-2][:30]


async def tell(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send(
        {"type": "http.response.body", "body": json.dumps(dict(scope["extensions"]["holdfast"]), default=repr).encode()}
    )


def wsgi_tell(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [json.dumps(dict(environ["holdfast.trace"]), default=repr).encode()]


@pytest.mark.parametrize(("app", "interface"), [(tell, "asgi"), (wsgi_tell, "wsgi")])
@pytest.mark.parametrize("trusted", [True, False])
def test_an_app_is_told_its_requests_names(app: object, interface: Any, trusted: bool) -> None:
    allowed = {} if trusted else {"forwarded_allow_ips": ()}
    with Harness(app, interface, **allowed) as harness, harness.connect() as sock:  # type: ignore[arg-type]
        first, second = asked(sock, "r-1"), asked(sock, "r-2")
    if trusted:
        assert (first["request_id"], second["request_id"]) == ("r-1", "r-2")
    else:
        assert MADE.fullmatch(first["request_id"])
        assert first["request_id"] != second["request_id"]


def asked(sock: socket.socket, name: str) -> Any:
    sock.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: {name}\r\n\r\n".encode())
    return json.loads(read_until(sock, b"}").partition(b"\r\n\r\n")[2])
