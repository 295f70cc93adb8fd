"""The corpus of raw requests: each does what its file says, in one piece, in any two, byte by byte, behind and before
other requests, to an ASGI and to a WSGI app; and a second, independent reading of it says the same."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import zttp

from supervisor.serve import gathering
from supervisor.serve.http1 import connection
from supervisor.serve.limits import Limits
from tests.serve.answers import Answered, read_answers
from tests.serve.cases import CORPUS, Case, CaseError, load, parse
from tests.serve.harness import Harness
from tests.serve.reading import Asked, End, read
from tests.serve.stepped import Client, Wired

CASES = {case.name: case for case in load()}
GOOD = b"GET /good HTTP/1.1\r\nHost: good\r\n\r\n"
SEEN_GOOD = b"GET /good"
READINGS = {End.CLEAN: "open", End.UNFINISHED: "waits", End.CLOSED: "closed", End.BAD: "closed"}


class Outcome(NamedTuple):
    """`end` as in the corpus, but for `waits`, which looks like `open` until the client says more."""

    answers: tuple[int, ...]
    sees: tuple[bytes, ...]
    end: str


class Apps:
    """An ASGI app, a WSGI app, and what both have seen since `seen` was cleared."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    async def asgi(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self._see(scope["method"].encode(), scope["raw_path"], scope["query_string"], body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path, query = environ["PATH_INFO"].encode("latin-1"), environ["QUERY_STRING"].encode("latin-1")
        if environ["RAW_URI"][:1] in "/*":  # decoded, a path is not what it was; the asterisk is none
            path = environ["RAW_URI"].partition("?")[0].encode("latin-1")
        self._see(environ["REQUEST_METHOD"].encode(), path, query, environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b"answer"]

    def _see(self, method: bytes, path: bytes, query: bytes, body: bytes) -> None:
        self.seen.append(spelled(method, path, query, body))


def spelled(method: bytes, path: bytes, query: bytes, body: bytes) -> bytes:
    """A request as the corpus writes it."""
    return method + b" " + path + (b"?" + query if query else b"") + (b" " + body if body else b"")


class Server:
    """A service to try cases on, in memory."""

    def __init__(self, interface: str) -> None:
        self.apps = Apps()
        self.wired = Wired(self.apps.asgi) if interface == "asgi" else Wired(self.apps.wsgi, "wsgi")

    def answers(self, wire: bytes, limits: Limits) -> list[Answered]:
        """What is answered to one packet."""
        self.wired.service.set_limits(limits)
        client = self.wired.connect()
        client.send(wire)
        self.wired.settle()
        answers, _rest = read_answers(bytes(client.received), _methods(wire), ended=client.ended or client.closed)
        client.reset()
        self.wired.settle()
        return answers

    def outcome(
        self, pieces: list[bytes], limits: Limits | None, *, half_closed: bool = False, first: bytes = b""
    ) -> Outcome:
        """What comes of these packets. `half_closed`: the client ends its half with the last one. Limits that are None
        stay as they are, and so does what the service has seen. `first` is there by the time that the connection is
        taken."""
        wired = self.wired
        if limits is not None:
            wired.service.set_limits(limits)
        self.apps.seen.clear()
        client = wired.connect(first=first)
        for piece in pieces[:-1]:
            client.send(piece)
            wired.settle()
        client.send(pieces[-1] if pieces else b"")
        if half_closed:
            client.end()
        wired.settle()
        end = "closed" if client.ended or client.closed else "open"
        methods = _methods(first + b"".join(pieces))
        statuses = _statuses(client, methods)
        client.end()
        wired.settle()
        if end == "open":
            assert client.closed, "a client that ends its half is left waiting"
            assert _statuses(client, methods) == statuses
        client.reset()
        wired.settle()
        wired.assert_idle()
        return Outcome(statuses, tuple(self.apps.seen), end)


@functools.lru_cache(maxsize=32)
def _methods(wire: bytes) -> list[str]:
    """What is asked for, as far as a client has to know it to read the answers."""
    return read(wire).methods


def _statuses(client: Client, methods: list[str]) -> tuple[int, ...]:
    answers, rest = read_answers(bytes(client.received), methods, ended=client.ended or client.closed)
    assert rest == b""
    assert all(answer.whole for answer in answers)
    return tuple(answer.status for answer in answers)


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    with server.wired:
        yield server


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(autouse=True)
def _hold_back_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second answer waits for the end of the loop's turn, however long after the first it comes."""
    monkeypatch.setattr(gathering, "CLOSE", math.inf)


def expected(case: Case) -> Outcome:
    return Outcome(case.answers, case.sees, "closed" if case.end == "closed" else "open")


def test_whole(server: Server, case: Case) -> None:
    assert server.outcome([case.wire], case.limits) == expected(case)


def test_when_it_has_come_before(server: Server, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SELDOM", 0)
    wanted = [server.outcome([case.wire], case.limits)]
    assert [server.outcome([case.wire], None) for _ in range(4)] == 4 * wanted


def test_with_the_end_of_the_client_in_the_same_breath(server: Server, case: Case) -> None:
    outcome = server.outcome([case.wire], case.limits, half_closed=True)
    assert outcome == expected(case)._replace(end="closed")


def test_there_before_the_connection_is_taken(server: Server, case: Case) -> None:
    assert server.outcome([], case.limits, first=case.wire) == expected(case)
    outcome = server.outcome([], case.limits, first=case.wire, half_closed=True)
    assert outcome == expected(case)._replace(end="closed")


def test_in_part_there_before_the_connection_is_taken(server: Server, case: Case) -> None:
    for at in range(1, len(case.wire)):
        assert server.outcome([case.wire[at:]], case.limits, first=case.wire[:at]) == expected(case), at


def test_cut_at_every_byte(server: Server, case: Case) -> None:
    for at in range(1, len(case.wire)):
        assert server.outcome([case.wire[:at], case.wire[at:]], case.limits) == expected(case), at


def test_byte_by_byte(server: Server, case: Case) -> None:
    assert server.outcome([bytes([byte]) for byte in case.wire], case.limits) == expected(case)


def test_behind_a_good_request(server: Server, case: Case) -> None:
    wanted = expected(case)
    wanted = Outcome((200, *wanted.answers), (SEEN_GOOD, *wanted.sees), wanted.end)
    assert server.outcome([GOOD + case.wire], case.limits) == wanted
    assert server.outcome([GOOD, case.wire], case.limits) == wanted
    ended = server.outcome([GOOD + case.wire], case.limits, half_closed=True)
    assert ended == wanted._replace(end="closed")


def test_before_a_good_request(server: Server, case: Case) -> None:
    if case.end == "waits":
        pytest.skip("what comes next belongs to it")
    wanted = expected(case)
    if case.end == "open":
        wanted = Outcome((*wanted.answers, 200), (*wanted.sees, SEEN_GOOD), "open")
    assert server.outcome([case.wire + GOOD], case.limits) == wanted
    assert server.outcome([case.wire, GOOD], case.limits) == wanted


def test_the_last_answer_says_what_becomes_of_the_connection(server: Server, case: Case) -> None:
    answers = server.answers(case.wire, case.limits)
    if answers:
        says = [value for name, value in answers[-1].headers if name == b"connection"]
        is_legacy = b"HTTP/1.0\r\n" in case.wire
        assert says == ([b"close"] if case.end == "closed" else [b"keep-alive"] if is_legacy else [])
        assert not is_legacy or all(not answer.interim for answer in answers)


def test_a_second_reading_agrees(case: Case) -> None:
    if case.limits != Limits():
        pytest.skip("it knows no limits")
    reading = read(case.wire)
    assert READINGS[reading.end] == case.end
    assert tuple(_spelled(asked) for asked in reading.asked) == case.sees
    if reading.end is End.BAD:
        assert case.answers[-1] in reading.statuses, reading.why
        assert len(case.answers) == len(reading.asked) + 1


def test_a_check_of_ours_stands_where_the_parser_lets_pass_what_is_refused(case: Case) -> None:
    if case.limits != Limits() or len(case.answers) != 1:
        pytest.skip("it is about more than the parser")
    assert case.zttp_takes == (case.answers[0] >= 400 and _zttp_takes(case.wire))


def _zttp_takes(wire: bytes) -> bool:
    """Whether a whole head comes out of it, and nothing behind that is complained about."""
    parser = zttp.Connection(zttp.SERVER)
    try:
        request = parser.receive_event(wire)
        event: object = request
        while not isinstance(event, (zttp.EndOfMessage, zttp.NeedData)) and not getattr(event, "end_stream", False):
            event = parser.next_event()
    except zttp.RemoteProtocolError:
        return False
    return isinstance(request, zttp.Request)


def _spelled(asked: Asked) -> bytes:
    return spelled(asked.method.encode(), asked.path, asked.query, asked.body)


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_the_same_over_real_sockets_and_in_threads(interface: str) -> None:
    apps = Apps()
    with Harness(apps.asgi) if interface == "asgi" else Harness(apps.wsgi, "wsgi") as harness:
        for case in CASES.values():
            harness.call(functools.partial(harness.service.set_limits, case.limits))
            apps.seen.clear()
            data = harness.ask(case.wire)
            answers, _rest = read_answers(data, _methods(case.wire), ended=True)
            assert tuple(answer.status for answer in answers) == case.answers, case.name
            assert tuple(apps.seen) == case.sees, case.name


def test_every_file_is_one_of_the_corpus_and_no_two_are_the_same() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert len(files) == len(CASES)
    assert len({(case.wire, case.limits) for case in CASES.values()}) == len(CASES)


@pytest.mark.parametrize(
    "text",
    [
        "No source.\n---\nGET",
        "No mark.\nsource: a\n",
        "A key.\nsource: a\nanswer: 200\n---\n",
        "Its end.\nsource: a\nend: x\n---\n",
    ],
)
def test_a_file_that_is_written_wrongly_is_named(text: str) -> None:
    with pytest.raises(CaseError, match=r"^wrong"):
        parse("wrong", text)
