"""Heads that come again: they are found, mean what they meant, and no app can change what they mean to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zttp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.serve.http1 import connection
from supervisor.serve.http1.familiar import KEPT, LONGEST, SELDOM, Heads, head_of
from supervisor.serve.limits import TICK, Limits
from supervisor.serve.service import FORGETTING
from tests.serve.stepped import Wired

RAW = b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nCookie: e=f\r\nCookie: g=h\r\n\r\n"


def parsed(raw: bytes) -> zttp.Request:
    request = zttp.Connection(zttp.SERVER).receive_event(raw)
    assert isinstance(request, zttp.Request)
    return request


def note(heads: Heads, raw: bytes) -> None:
    request = parsed(raw)
    heads.note(head_of(raw, request, request.path, request.query, False))


class Recording:
    """An app that remembers what it was told, and spoils it afterwards."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    async def asgi(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        self.told.append({**scope, "headers": scope["headers"].copy(), "extensions": sorted(scope["extensions"])})
        scope["headers"].append((b"x-spoiled", b"1"))
        scope["extensions"]["spoiled"] = scope["state"]["spoiled"] = True
        scope.clear()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.told.append({name: value for name, value in environ.items() if name != "holdfast.trace"})
        environ.clear()
        start_response("204 No Content", [])
        return []


@pytest.fixture(autouse=True)
def _note_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SELDOM", 0)


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def wired(request: pytest.FixtureRequest) -> Iterator[tuple[Wired, Recording]]:
    app = Recording()
    with Wired(app.asgi) if request.param == "asgi" else Wired(app.wsgi, "wsgi") as wired:
        yield wired, app


def ask(wired: Wired, raw: bytes, port: int = 50000) -> None:
    client = wired.connect(address=("127.0.0.1", port))
    client.send(raw)
    wired.settle()
    assert client.received.startswith(b"HTTP/1.1 204 ")
    client.reset()
    wired.settle()


def test_a_head_is_found_from_its_second_noting_on() -> None:
    heads = Heads()
    note(heads, RAW)
    assert heads.find(RAW) is None
    note(heads, RAW)
    known = heads.find(bytes(bytearray(RAW)))
    assert known is not None
    assert (known.method, known.path, known.query, known.last) == ("GET", b"/a%20b", b"c=d", False)
    assert heads.find(RAW.replace(b"e=f", b"e=F")) is None
    heads.forget()
    assert heads.find(RAW) is None
    note(heads, RAW)
    assert heads.find(RAW) is not None


def test_a_long_head_is_never_kept() -> None:
    heads = Heads()
    for size, is_kept in ((LONGEST, True), (LONGEST + 1, False)):
        raw = RAW[:-2] + b"A: " + b"a" * (size - len(RAW) - 5) + b"\r\n\r\n"
        assert len(raw) == size
        for _ in range(3):
            note(heads, raw)
        assert (heads.find(raw) is not None) == is_kept


def test_heads_that_come_later_than_there_is_room_drive_out_nobody() -> None:
    heads = Heads()
    raws = [RAW.replace(b"/a", b"/%d" % number) for number in range(2 * KEPT)]
    for raw in raws:
        note(heads, raw)
        note(heads, raw)
    assert [heads.find(raw) is not None for raw in raws] == [True] * KEPT + [False] * KEPT


def test_an_app_is_told_the_same_again_whatever_it_did_to_what_it_was_told(wired: tuple[Wired, Recording]) -> None:
    service, app = wired
    service.service.heads.forget()
    app.told.clear()
    for _ in range(6):
        ask(service, RAW)
    assert service.service.find_head(RAW) is not None
    assert len(app.told) == 6
    assert all(told == app.told[0] for told in app.told)


def test_the_client_is_each_time_who_asks(wired: tuple[Wired, Recording]) -> None:
    service, app = wired
    app.told.clear()
    for port in range(50000, 50006):
        ask(service, RAW, port)
    assert service.service.find_head(RAW) is not None
    ports = [told["client"][1] if "client" in told else int(told["REMOTE_PORT"]) for told in app.told]
    assert ports == list(range(50000, 50006))


@pytest.mark.parametrize(
    "field", [b"X-Forwarded-For: 192.0.2.7", b"x-forwarded-proto: https", b"Forwarded: for=192.0.2.7"]
)
def test_whom_a_peer_speaks_for_is_each_time_who_is_named(wired: tuple[Wired, Recording], field: bytes) -> None:
    service, app = wired
    named = RAW.replace(b"Accept: */*", field)
    app.told.clear()
    client = service.connect()
    for raw in (RAW, named, RAW, named, named, RAW) * 3:
        client.send(raw)
        service.settle()
    client.reset()
    service.settle()
    assert service.service.find_head(named) is not None
    told = [
        (it["client"], it["scheme"]) if "client" in it else (it["REMOTE_ADDR"], it["wsgi.url_scheme"])
        for it in app.told
    ]
    itself, other = told[:2]
    assert itself != other
    assert told == [itself, other, itself, other, other, itself] * 3


_TOKEN = st.text("abcXYZ019-_", min_size=1, max_size=12)
_VALUE = st.text([chr(c) for c in range(0x21, 0x7F)] + ["é"], max_size=20)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["GET", "HEAD", "DELETE", "OPTIONS"]),
    st.text("abc/%20?=&.~", max_size=20),
    st.lists(st.tuples(_TOKEN, _VALUE), max_size=6),
    st.booleans(),
)
def test_whatever_the_head_is_it_means_the_same_again(
    wired: tuple[Wired, Recording], method: str, target: str, fields: list[tuple[str, str]], closes: bool
) -> None:
    service, app = wired
    lines = [f"{method} /{target} HTTP/1.1", "Host: x", *(f"X-{name}: {value}" for name, value in fields)]
    raw = "\r\n".join([*lines, *(["Connection: close"] if closes else []), "", ""]).encode("latin-1")
    app.told.clear()
    answers = set()
    for _ in range(5):
        client = service.connect()
        client.send(raw)
        service.settle()
        answers.add((bytes(client.received), client.ended))
        client.reset()
        service.settle()
    assert len(answers) == 1
    assert all(told == app.told[0] for told in app.told)
    assert len(app.told) in (0, 5)


def test_what_has_a_body_or_asks_for_another_protocol_is_not_kept(wired: tuple[Wired, Recording]) -> None:
    service, _app = wired
    service.service.heads.forget()
    for extra in (b"Content-Length: 0", b"Content-Length: 1", b"Connection: upgrade\r\nUpgrade: h2c"):
        raw = b"POST /b HTTP/1.1\r\nHost: x\r\n" + extra + b"\r\n\r\n"
        for _ in range(4):
            client = service.connect()
            client.send(raw + (b"x" if extra.endswith(b"1") else b""))
            service.settle()
            client.reset()
            service.settle()
        assert service.service.find_head(raw) is None or extra.endswith(b"0")


def test_other_limits_begin_anew(wired: tuple[Wired, Recording]) -> None:
    service, _app = wired
    for _ in range(4):
        ask(service, RAW)
    assert service.service.find_head(RAW) is not None
    service.service.set_limits(Limits(head=len(RAW) - 1))
    client = service.connect()
    client.send(RAW)
    service.settle()
    assert client.received.startswith(b"HTTP/1.1 431 ")
    client.reset()
    service.settle()
    service.service.set_limits(Limits())


def test_after_a_minute_none_is_known_any_more() -> None:
    with Wired(Recording().wsgi, "wsgi") as service:
        service.start()
        for _ in range(4):
            ask(service, RAW)
        assert service.service.find_head(RAW) is not None
        for _ in range(FORGETTING):
            service.advance(TICK)
        assert service.service.find_head(RAW) is None
        service.loop.run_until_complete(service.service.shutdown())


def test_few_requests_are_noted() -> None:
    assert SELDOM.bit_count() == 3  # one in eight: two thousand instructions, of which a request has sixty thousand


def test_an_app_may_answer_the_same_head_differently_each_time() -> None:
    reused: list[Any] = [(b"x-a", b"1")]
    inner: Any = [b"x-b", b"1"]
    answers: list[tuple[int, Any]] = [(200, reused), (200, reused), (200, [inner]), (404, [inner]), (404, reused)]
    now: list[tuple[int, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        status, headers = now[0]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body"})

    def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        status, headers = now[0]
        start_response(f"{status} It", [(name.decode(), value.decode()) for name, value in headers])
        return []

    for wired in (Wired(app), Wired(wsgi, "wsgi")):
        with wired:
            client = wired.connect()
            for number, (status, headers) in enumerate(answers * 3):
                reused[:] = [(b"x-a", b"%d" % number)]
                inner[1] = b"%d" % number
                now[:] = [(status, headers)]
                name, value = headers[0]
                for _ in range(3):
                    client.received.clear()
                    client.send(RAW)
                    wired.settle()
                    assert client.received.startswith(b"HTTP/1.1 %d " % status)
                    assert b"\r\n%b: %b\r\n" % (name, value) in client.received
            assert wired.service.find_head(RAW) is not None
            client.reset()
            wired.settle()


def test_what_may_not_be_answered_may_not_be_answered_after_what_may() -> None:
    now: list[Any] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": now})
        await send({"type": "http.response.body"})

    with Wired(app) as wired:
        for value, status in ((b"good", 200), (b"bad\r\n", 500)) * 4:
            now[:] = [(b"x-a", value)]
            client = wired.connect()
            client.send(RAW)
            wired.settle()
            assert client.received.startswith(b"HTTP/1.1 %d " % status)
            client.reset()
            wired.settle()
