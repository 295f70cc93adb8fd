"""Bodies taken out of a stream of bytes, however it is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.serve.http1.body import BodyError, ChunkedBody, SizedBody
from supervisor.serve.http1.head import LARGE_BODY
from supervisor.serve.limits import Limits


def chunked(limits: Limits | None = None) -> ChunkedBody:
    return ChunkedBody(limits or Limits())


def feed_in_pieces(body: ChunkedBody | SizedBody, data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """Body and rest, with `data` cut at `cuts`."""
    got = rest = b""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        piece = data[start:end]
        if not body.remaining:
            rest += piece
        elif piece:
            more, left = body.feed(piece)
            got += more
            rest += left
    return got, rest


def test_a_sized_body_gives_back_what_follows() -> None:
    body = SizedBody(5)
    assert body.feed(b"abc") == (b"abc", b"")
    assert body.feed(b"deGET") == (b"de", b"GET")
    assert body.remaining == 0


@given(
    chunks=st.lists(
        st.binary(min_size=1, max_size=30) | st.sampled_from([b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"\r"]), max_size=6
    ),
    trailer=st.sampled_from([b"", b"X: y\r\n", b"A: b\r\nC: d\r\n"]),
    follows=st.binary(max_size=20) | st.sampled_from([b"\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"]),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_exactly_the_chunked_body_is_taken(
    chunks: list[bytes], trailer: bytes, follows: bytes, cuts: list[int]
) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"
    body = chunked()
    assert feed_in_pieces(body, wire + follows, cuts) == (b"".join(chunks), follows)
    assert body.remaining == 0


def test_every_cut_of_a_chunked_body_is_the_same() -> None:
    wire = b"3;x=y\r\nabc\r\n4\r\n\r\n\r\n\r\n0\r\nT: u\r\n\r\nGET /"
    for first in range(len(wire) + 1):
        for second in range(first, len(wire) + 1):
            assert feed_in_pieces(chunked(), wire, [first, second]) == (b"abc\r\n\r\n", b"GET /")


@pytest.mark.parametrize(
    "wire",
    [b"x\r\n", b"3 \r\nabc\r\n", b"3\r\nabcd\r\n", b"-1\r\n", b"0x3\r\nabc", b"3\nabc\n", b"ffffffffffffffffff\r\n"],
)
def test_bad_chunks_raise(wire: bytes) -> None:
    with pytest.raises(BodyError):
        chunked().feed(wire)


def test_endless_extensions_and_trailers_raise() -> None:
    with pytest.raises(BodyError):
        chunked(Limits(chunk_overhead=100)).feed(b"1;" + b"a" * 200 + b"\r\nx\r\n")
    body = chunked(Limits(chunk_overhead=100))
    body.feed(b"0\r\n")
    with pytest.raises(BodyError):
        body.feed(b"X: yyyyyyyyyy\r\n" * 100)


def test_more_body_than_may_be_raises_and_exactly_as_much_does_not() -> None:
    whole = b"5\r\nabcde\r\n5\r\nfghij\r\n"
    assert chunked(Limits(body=10)).feed(whole + b"0\r\n\r\n") == (b"abcdefghij", b"")
    body = chunked(Limits(body=10))
    assert body.feed(whole) == (b"abcdefghij", b"")
    with pytest.raises(BodyError) as caught:
        body.feed(b"1\r\nk\r\n")
    assert caught.value.refusal is LARGE_BODY


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_chunk_that_is_wrong_in_two_ways_is_refused_for_the_same_however_it_is_cut(step: int) -> None:
    wire = b"fff;" + b"e" * 100 + b"\r\n"
    body = chunked(Limits(body=100, chunk_overhead=64))
    with pytest.raises(BodyError, match="more chunk framing") as caught:
        feed_in_pieces(body, wire, list(range(0, len(wire), step)))
    assert type(caught.value) is BodyError


def test_single_byte_chunks_are_within_the_budget() -> None:
    body = chunked(Limits(chunk_overhead=100))
    data, rest = body.feed(b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
    assert len(data) == 10_000
    assert rest == b""


@given(st.binary(max_size=100), st.lists(st.integers(0, 100), max_size=5))
def test_garbage_raises_nothing_else(data: bytes, cuts: list[int]) -> None:
    try:
        feed_in_pieces(chunked(), data, cuts)
    except BodyError:
        return
