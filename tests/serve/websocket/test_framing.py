"""Bytes to messages and back, without a connection. The client's side is written by hand."""

from __future__ import annotations

import array
import itertools
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.serve.websocket.framing import CodeError, Framing, OfferError
from tests.serve.websocket.client import BINARY, CLOSE, CONT, PING, PONG, TEXT, close, frame, masked

LIMIT = 1 << 20
Received = list[str | bytes]


def framing(limit: int = LIMIT, *, offers: tuple[str, ...] = (), deflate: bool = True) -> Framing:
    return Framing(limit, offers, deflate=deflate)


def fed(wire: Framing, *pieces: bytes) -> Received:
    return list(itertools.chain.from_iterable(wire.receive(piece) for piece in pieces))


MESSAGES = st.lists(st.one_of(st.text(max_size=200), st.binary(max_size=200)), max_size=6)


@given(MESSAGES, st.data())
def test_messages_are_the_same_however_fragmented_mixed_with_pings_and_cut(
    messages: Received, data: st.DataObject
) -> None:
    stream = b""
    for message in messages:
        raw = message.encode() if isinstance(message, str) else message
        cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=3)))
        parts = [raw[a:b] for a, b in itertools.pairwise([0, *cuts, len(raw)])]
        for number, part in enumerate(parts):
            opcode = CONT if number else TEXT if isinstance(message, str) else BINARY
            stream += frame(opcode, part, fin=number == len(parts) - 1)
            if data.draw(st.booleans()):
                stream += frame(PING, b"p")
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    wire = framing()
    assert fed(wire, *(stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)]) if a < b)) == messages
    assert wire.closed is None


def test_frame_by_frame_byte_by_byte_and_all_at_once_are_the_same() -> None:
    frames = [
        frame(TEXT, b"a"),
        frame(TEXT),
        frame(BINARY, b"b" * 125),
        frame(BINARY, b"c" * 126),
        frame(TEXT, b"d" * 70000),
    ]
    expected = ["a", "", b"b" * 125, b"c" * 126, "d" * 70000]
    assert fed(framing(), *frames) == expected
    assert fed(framing(), b"".join(frames)) == expected
    assert fed(framing(), *(bytes((byte,)) for byte in b"".join(frames))) == expected


def test_a_short_frame_behind_the_head_of_another_is_part_of_it() -> None:
    wire = framing()
    inner = frame(TEXT, b"x")
    outer = frame(BINARY, inner + b"y")
    assert fed(wire, outer[:6]) == []
    # What comes next looks, unmasked, like a whole frame of its own.
    assert fed(wire, outer[6:]) == [inner + b"y"]
    assert fed(wire, frame(TEXT, b"now")) == ["now"]


@pytest.mark.parametrize("size", [8, 200, 70_000])
def test_nor_is_one_that_looks_like_a_frame_on_the_wire(size: int) -> None:
    inner = frame(TEXT, b"x")
    payload = masked(inner) + bytes(size - len(inner))
    outer = frame(BINARY, payload)
    head = len(outer) - size
    for cut in range(1, head + 1):
        wire = framing()
        pieces = [outer[:cut], outer[cut:head], outer[head : head + len(inner)], outer[head + len(inner) :]]
        assert fed(wire, *filter(None, pieces)) == [payload], cut
        assert fed(wire, frame(TEXT, b"now")) == ["now"]


def test_a_whole_message_between_fragments_breaks_the_protocol() -> None:
    wire = framing()
    assert fed(wire, frame(TEXT, b"a", fin=False), frame(TEXT, b"b")) == []
    assert wire.broken
    assert wire.closed is not None
    assert wire.closed.code == 1002


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (frame(TEXT, b"unmasked", mask=False), 1002),
        (frame(TEXT, b"reserved bit", rsv=4), 1002),
        (frame(3, b"reserved opcode"), 1002),
        (frame(CONT, b"continues nothing"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(CLOSE, b"x"), 1002),
        (close(1005), 1002),
        (close(999), 1002),
        (close(1000, b"\xff"), 1007),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),  # a surrogate
        (frame(TEXT, b"\xff" * 200), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(CONT, b"("), 1007),
        (frame(BINARY, b"x" * (LIMIT + 1))[:20], 1009),  # known from its head
        (frame(TEXT, b"x" * LIMIT, fin=False) + frame(CONT, b"x"), 1009),
    ],
)
def test_what_breaks_the_protocol_is_told_with_its_code(stream: bytes, code: int) -> None:
    wire = framing()
    assert fed(wire, stream) == []
    assert wire.heed
    assert wire.broken
    assert wire.closed is not None
    assert wire.closed.code == code
    said = wire.outgoing()
    assert said[0] == 0x80 | CLOSE
    assert int.from_bytes(said[2:4], "big") == code
    assert fed(wire, frame(TEXT, b"nobody listens")) == []
    assert wire.outgoing() == b""


@pytest.mark.parametrize("more", [close(), frame(3), frame(TEXT, b"a", mask=False)], ids=["close", "kind", "mask"])
def test_the_first_mistake_counts_whatever_comes_with_it(more: bytes) -> None:
    framing = Framing(100, (), deflate=False)
    assert framing.receive(frame(TEXT, b"\xff") + more + frame(TEXT, b"b")) == []
    assert framing.closed is not None
    assert (framing.closed.code, framing.broken) == (1007, True)


def test_a_character_may_be_split_between_fragments() -> None:
    assert fed(framing(), frame(TEXT, b"\xc3", fin=False), frame(CONT, b"\xa9")) == ["é"]


def test_the_largest_message_is_taken() -> None:
    wire = framing(1000)
    assert fed(wire, frame(BINARY, b"x" * 1000)) == [b"x" * 1000]
    assert fed(wire, frame(BINARY, b"x" * 999, fin=False), frame(CONT, b"x")) == [b"x" * 1000]


def test_tiny_fragments_take_no_more_than_their_message() -> None:
    wire = framing()
    piece = frame(CONT, b"x", fin=False)
    wire.receive(frame(BINARY, b"x", fin=False))
    tracemalloc.start()
    try:
        for _ in range(20):
            wire.receive(piece * 1000)
        size, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 80_000
    assert fed(wire, frame(CONT)) == [b"x" * 20_001]


def test_pings_are_answered_and_pongs_noticed() -> None:
    wire = framing()
    assert fed(wire, frame(PING, b"are you there")) == []
    assert wire.heed
    assert wire.outgoing() == b"\x8a\x0dare you there"
    assert wire.ping() == b"\x89\x00"
    before = wire.ponged
    fed(wire, frame(PONG))
    assert (before, wire.ponged) == (False, True)


@pytest.mark.parametrize(("sent", "code", "reason"), [(close(1001, b"bye"), 1001, "bye"), (close(None), 1005, "")])
def test_the_client_s_close_is_answered_in_kind(sent: bytes, code: int, reason: str) -> None:
    wire = framing()
    assert fed(wire, frame(TEXT, b"last") + sent + b"rubbish") == ["last"]
    assert wire.closed is not None
    assert (wire.closed.code, wire.closed.reason, wire.broken) == (code, reason, False)
    assert wire.outgoing() == bytes((0x88, len(sent) - 6)) + (b"" if code == 1005 else b"\x03\xe9bye")


def test_our_close_is_over_with_the_client_s() -> None:
    wire = framing()
    assert wire.close(4000, "x" * 130) == b"\x88\x7d\x0f\xa0" + b"x" * 123
    ends = []
    for piece in (frame(TEXT, b"on its way"), close(4000)):
        fed(wire, piece)
        ends.append(wire.closed is not None)
    assert ends == [False, True]
    assert not wire.broken


def test_a_reason_is_cut_between_characters() -> None:
    assert wire_reason("é" * 70) == "é" * 61


def wire_reason(reason: str) -> str:
    return framing().close(1000, reason)[4:].decode()


def test_a_close_without_a_code_says_none() -> None:
    assert framing().close(1005, "not said") == b"\x88\x00"


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 2999, 5000, 70000])
def test_codes_that_must_not_be_sent_are_not(code: int) -> None:
    wire = framing()
    with pytest.raises(CodeError):
        wire.close(code, "")
    assert wire.text("still open") == b"\x81\x0astill open"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_sizes_are_written_in_the_shortest_form(size: int) -> None:
    data = b"x" * size
    assert framing().binary(data) == frame(BINARY, data, mask=False)
    assert framing().text(data.decode()) == frame(TEXT, data, mask=False)


def test_compression_is_negotiated_used_and_undone() -> None:
    wire = framing(offers=("permessage-deflate; client_max_window_bits",))
    assert wire.agreed is not None
    assert wire.agreed.startswith("permessage-deflate")
    sent = wire.text("a" * 100)
    assert sent[0] == 0xC1
    assert len(sent) < 20
    assert zlib.decompressobj(wbits=-15).decompress(sent[2:] + b"\x00\x00\xff\xff") == b"a" * 100
    deflate = zlib.compressobj(wbits=-12)
    data = (deflate.compress(b"b" * 500) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert fed(wire, frame(TEXT, data, rsv=4), frame(TEXT, b"plain")) == ["b" * 500, "plain"]


def test_a_bomb_is_stopped_at_the_limit() -> None:
    wire = framing(offers=("permessage-deflate",))
    deflate = zlib.compressobj(wbits=-15)
    data = (deflate.compress(b"\0" * (LIMIT + 1)) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(data) < 2000
    assert fed(wire, frame(BINARY, data, rsv=4)) == []
    assert wire.closed is not None
    assert wire.closed.code == 1009


@pytest.mark.parametrize(
    ("offers", "deflate"), [((), True), (("permessage-deflate",), False), (("x-webkit-foo",), True), (("=",), False)]
)
def test_nothing_is_agreed_on_that_was_not_offered_or_is_off(offers: tuple[str, ...], deflate: bool) -> None:
    wire = framing(offers=offers, deflate=deflate)
    assert wire.agreed is None
    assert wire.text("hello") == b"\x81\x05hello"


def test_a_malformed_offer_is_refused() -> None:
    with pytest.raises(OfferError):
        framing(offers=("permessage-deflate; =",))


def test_the_length_of_a_buffer_is_that_of_its_bytes() -> None:
    data: Any = memoryview(array.array("I", [1, 2]))
    assert framing().binary(data) == frame(BINARY, bytes(data), mask=False)
