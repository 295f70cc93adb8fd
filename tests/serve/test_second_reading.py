"""Requests put together at random, good and bad: the app sees what a second, independent reading finds in the bytes,
however they are cut. The same, for hours, is `scripts/fuzz`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.serve.limits import Limits
from tests.serve.reading import End, Reading, read
from tests.serve.test_corpus import Outcome, Server, spelled

CHUNKS = b'2;a="\\"";b\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n'

GOOD_LINES = (b"GET / HTTP/1.1", b"HEAD //a?b=c HTTP/1.1", b"OPTIONS * HTTP/1.2", b"PUT http://a/b HTTP/1.1")
LEGACY_LINES = (b"GET /a HTTP/1.0", b"GET HTTPS://a?c HTTP/1.0")
BAD_LINES = (
    b"CONNECT a:80 HTTP/1.1",
    b"get / HTTP/1.1",
    b"GET * HTTP/1.1",
    b"GET a:80 HTTP/1.1",
    b"GET http://b/ HTTP/1.1",
    b"GET /a#b HTTP/1.1",
    b"GET /\xe9 HTTP/1.1",
    b"GET  / HTTP/1.1",
    b"GET / HTTP/2.0",
    b"GET / http/1.1",
)
GOOD_HOSTS = (b"Host: a", b"host:\ta ", b"HOST: A")
BAD_HOSTS = (b"Host: [::1]", b"Host: a/b", b"Host : a", b"Host:", b"X: y", b"Host: a\r\nHost: a")
GOOD_BODIES = (
    ((), b""),
    ((b"Content-Length: 5",), b"hello"),
    ((b"Content-Length: 005", b"Expect: 100-continue"), b"GET /"),
    ((b"Transfer-Encoding: Chunked",), CHUNKS),
    ((b"Transfer_Encoding: chunked",), b""),
)
BAD_FRAMINGS = (
    b"Content-Length: +5",
    b"Content-Length: 5, 5",
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\x0bchunked",
)
BAD_BODIES = (b"5;\r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n", b"0\r\n", b"hell")
GOOD_FIELDS = (b"X:", b"X: \xff\ty", b"Connection: keep-alive", b"TE: trailers")
BAD_FIELDS = (b"Connection: close", b"X: y\r\n z", b"X: y\nZ: w", b"X: y\rZ: w", b"X: \0", b"X")
BYTES = (b"\r", b"\n", b" ", b"\t", b":", b"\0", b"0", b"\x80", b";", b"x", b"")


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, as likely good as with one thing wrong."""
    wrong = draw(st.sampled_from(["", "", "", "", "line", "legacy", "host", "framing", "body", "field"]))
    lines = {"line": BAD_LINES, "legacy": LEGACY_LINES}.get(wrong, GOOD_LINES)
    line = draw(st.sampled_from(lines))
    host = draw(st.sampled_from(BAD_HOSTS if wrong == "host" else GOOD_HOSTS))
    framing, body = draw(st.sampled_from(GOOD_BODIES))
    if wrong == "body":
        framing, body = (b"Transfer-Encoding: chunked",), draw(st.sampled_from(BAD_BODIES))
    fields = [host, *framing, *draw(st.lists(st.sampled_from(GOOD_FIELDS), max_size=2))]
    if wrong in ("framing", "field"):
        fields.append(draw(st.sampled_from(BAD_FRAMINGS if wrong == "framing" else BAD_FIELDS)))
    return b"\r\n".join((line, *draw(st.permutations(fields)), b"", body))


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Some requests, one after another, and perhaps a byte more, or less, or another."""
    stream = b"".join(draw(st.lists(requests(), min_size=1, max_size=4)))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(stream)))
        stream = stream[:at] + draw(st.sampled_from(BYTES)) + stream[at + draw(st.integers(0, 1)) :]
    return stream


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    with server.wired:
        yield server


@settings(max_examples=400, deadline=None)
@given(streams(), st.lists(st.integers(0, 400), max_size=6))
def test_it_finds_what_the_app_sees(server: Server, stream: bytes, cuts: list[int]) -> None:
    whole = server.outcome([stream], Limits())
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert server.outcome([stream[a:b] for a, b in itertools.pairwise(edges)], Limits()) == whole
    _hold_against(read(stream), whole)


def _hold_against(reading: Reading, outcome: Outcome) -> None:
    assert list(outcome.sees) == [spelled(a.method.encode(), a.path, a.query, a.body) for a in reading.asked]
    served = len(reading.asked)
    assert outcome.answers[:served] == (200,) * served
    refused = outcome.answers[served:]
    if reading.end in (End.CLEAN, End.CLOSED):
        assert refused == ()
        assert outcome.end == ("open" if reading.end is End.CLEAN else "closed")
    elif refused:
        assert refused[0] >= 400
        assert outcome.end == "closed"
