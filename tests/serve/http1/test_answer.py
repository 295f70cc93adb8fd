"""Answers as bytes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.serve.http1.answer import Answer, AnswerError, Stamps, plain, render, render_fields, render_text

STAMPS = Stamps()
STAMPS.set(784111777)


def whole(headers: list[tuple[bytes, bytes]], body: bytes, *, status: int = 200, method: str = "GET") -> bytes:
    return b"".join(Answer(method, False, True).whole(render(status, headers), body, STAMPS))


def test_the_date_is_an_imf_fixdate() -> None:
    assert STAMPS.date == b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


def test_a_whole_answer_is_one_piece_with_a_length() -> None:
    first, second = Answer("GET", False, True).whole(render(200, [(b"a", b"b")]), b"hello", STAMPS)
    assert second == b""
    assert first == (
        b"HTTP/1.1 200 OK\r\na: b\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nserver: holdfast\r\n"
        b"content-length: 5\r\n\r\nhello"
    )


def test_a_large_body_is_not_copied() -> None:
    body = bytes(100_000)
    first, second = Answer("GET", False, True).whole(render(200, []), body, STAMPS)
    assert second is body
    assert first.endswith(b"content-length: 100000\r\n\r\n")


def test_the_app_s_own_date_and_server_stand() -> None:
    data = whole([(b"Date", b"then"), (b"Server", b"mine")], b"")
    assert data.lower().count(b"date:") == data.lower().count(b"server:") == 1
    assert b"Date: then" in data
    assert b"Server: mine" in data
    assert whole([(b"date", b"then")], b"").count(b"server: holdfast") == 1


def test_a_declared_length_is_held() -> None:
    with pytest.raises(AnswerError, match="declared 3 bytes and answered 2"):
        whole([(b"content-length", b"3")], b"ab")
    answer = Answer("GET", False, True)
    answer.begin(render(200, [(b"content-length", b"3")]), STAMPS)
    assert answer.more(b"ab") == b"ab"
    with pytest.raises(AnswerError, match="declared 3 bytes and answered 2"):
        answer.end()
    with pytest.raises(AnswerError, match="more than the 3 bytes"):
        answer.more(b"cd")


def test_pieces_are_chunked_and_an_empty_piece_does_not_end_them() -> None:
    answer = Answer("GET", False, True)
    assert b"transfer-encoding: chunked\r\n" in answer.begin(render(200, []), STAMPS)
    assert answer.more(b"x" * 17) == b"11\r\n" + b"x" * 17 + b"\r\n"
    assert answer.more(b"") == b""
    assert answer.end() == b"0\r\n\r\n"
    assert answer.sent == 17


def test_http_1_0_gets_no_chunks_but_the_end_of_the_connection() -> None:
    answer = Answer("GET", True, True)
    head = answer.begin(render(200, []), STAMPS)
    assert b"chunked" not in head
    assert b"connection: close" in head
    assert answer.more(b"x") == b"x"
    assert answer.end() == b""
    assert not answer.keep


def test_http_1_0_is_told_that_the_connection_is_kept() -> None:
    answer = Answer("GET", True, True)
    first, _ = answer.whole(render(200, []), b"x", STAMPS)
    assert b"connection: keep-alive" in first


@pytest.mark.parametrize(("status", "method"), [(204, "GET"), (304, "GET"), (200, "HEAD")])
def test_answers_without_a_body_have_none(status: int, method: str) -> None:
    data = whole([], b"hello", status=status, method=method)
    assert data.endswith(b"\r\n\r\n")
    assert (b"content-length: 5" in data) == (method == "HEAD")
    answer = Answer(method, False, True)
    assert b"chunked" not in answer.begin(render(status, []), STAMPS)
    assert answer.more(b"hello") == answer.end() == b""


def test_204_has_no_length_and_304_may() -> None:
    assert b"length" not in whole([(b"content-length", b"0")], b"", status=204)
    assert b"length" not in whole([], b"hello", status=204, method="HEAD")
    assert b"length" not in whole([], b"hello", status=304, method="HEAD")
    assert b"content-length: 7" in whole([(b"content-length", b"7")], b"", status=304)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_205_says_that_it_has_no_body(method: str) -> None:
    for headers in ([], [(b"content-length", b"5")]):
        data = whole(headers, b"hello", status=205, method=method)
        assert data.endswith(b"content-length: 0\r\n\r\n")
        assert data.count(b"content-length") == 1
        assert Answer(method, False, True).begin(render(205, headers), STAMPS).endswith(b"content-length: 0\r\n\r\n")


def test_a_size_that_is_known_is_the_length_of_pieces() -> None:
    answer = Answer("GET", False, True)
    assert answer.begin(render(200, []), STAMPS, 5).endswith(b"content-length: 5\r\n\r\n")
    assert answer.around(3) == (b"", b"")
    with pytest.raises(AnswerError, match="declared 5 bytes and answered 3"):
        answer.end()
    assert answer.more(b"de") == b"de"
    assert answer.end(b"x: y\r\n") == b""  # only chunks have room for trailers
    assert answer.sent == 5
    with pytest.raises(AnswerError, match="declared 4 bytes and answered 5"):
        Answer("GET", False, True).begin(render(200, [(b"content-length", b"4")]), STAMPS, 5)
    assert b"content-length: 5" in Answer("HEAD", False, True).begin(render(200, []), STAMPS, 5)
    assert b"length" not in Answer("HEAD", False, True).begin(render(304, []), STAMPS, 5)


def test_a_known_size_may_be_chunked_all_the_same_but_not_for_http_1_0() -> None:
    answer = Answer("GET", False, True)
    assert b"transfer-encoding: chunked" in answer.begin(render(200, []), STAMPS, 17, chunked=True)
    assert answer.around(17) == (b"11\r\n", b"\r\n")
    assert answer.end(b"x: y\r\n") == b"0\r\nx: y\r\n\r\n"
    assert answer.sent == 17


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_what_may_change_is_copied(kind: Any) -> None:
    buffer = bytearray(b"a" * 100_000)
    _, apart = Answer("GET", False, True).whole(render(200, []), kind(buffer), STAMPS)
    answer = Answer("GET", False, True)
    answer.begin(render(200, [(b"content-length", b"100000")]), STAMPS)
    piece = answer.more(kind(buffer))
    buffer[:] = bytes(100_000)
    assert apart == piece == b"a" * 100_000


@pytest.mark.parametrize("body", ["text", [1, 2], 5])
def test_what_is_no_bytes_is_no_body(body: bytes) -> None:
    answer = Answer("GET", False, True)
    with pytest.raises(TypeError):
        answer.whole(render(200, []), body, STAMPS)
    answer.begin(render(200, []), STAMPS)
    with pytest.raises(TypeError):
        answer.more(body)


def test_fields_are_rendered_alone_and_checked_the_same() -> None:
    assert render_fields([(b"Link", b"</a>"), (b"link", b"")]) == b"Link: </a>\r\nlink: \r\n"
    assert render_fields([]) == b""
    with pytest.raises(AnswerError, match="line break"):
        render_fields([(b"a", b"b\r\nc: d")])
    with pytest.raises(AnswerError, match="not a token"):
        render_fields([(b"a b", b"c")])


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb", b"a\rb", b"a\0b"])
def test_no_line_break_or_nul_gets_into_a_header(value: bytes) -> None:
    with pytest.raises(AnswerError, match="line break"):
        render(200, [(b"x", value)])


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\n", b"\xff", "text"])
def test_header_names_are_tokens(name: bytes) -> None:
    with pytest.raises(AnswerError, match="not a token"):
        render(200, [(name, b"x")])


@pytest.mark.parametrize("status", [0, 99, 100, 199, 1000, -1])
def test_only_final_statuses_end_an_answer(status: int) -> None:
    with pytest.raises(AnswerError, match="status"):
        render(status, [])


def test_an_unknown_status_has_an_empty_reason() -> None:
    assert whole([], b"", status=299).startswith(b"HTTP/1.1 299 \r\n")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"1"), (b"Content-Length", b"1")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"\xb2")],
    ],
)
def test_a_senseless_length_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(AnswerError, match="Content-Length"):
        render(200, headers)


def test_the_connection_and_its_codings_are_ours() -> None:
    answer = Answer("GET", False, True)
    head = answer.begin(render(200, [(b"transfer-encoding", b"chunked"), (b"Connection", b"Close")]), STAMPS)
    assert head.count(b"chunked") == 1
    assert head.lower().count(b"connection: close") == 1
    assert not answer.keep


def test_lists_are_pairs_too() -> None:
    assert b"a: b\r\n" in whole([[b"a", b"b"]], b"")  # type: ignore[list-item]


def test_wsgi_text_is_latin_1_and_a_status_begins_with_a_number() -> None:
    assert render_text("200 Fine", [("X", "é")]).text == b"HTTP/1.1 200 OK\r\nX: \xe9\r\n"
    assert render_text("200 Fine", [("X", "é")]).text == b"HTTP/1.1 200 OK\r\nX: \xe9\r\n"
    with pytest.raises(AnswerError):
        render_text("OK", [])
    with pytest.raises(AnswerError):
        render_text("200 OK", [("X", "a\nb")])


def test_what_is_remembered_is_bounded() -> None:
    from supervisor.serve.http1 import answer

    for number in range(3000):
        render(200, [(b"x-%d" % number, b"%d" % number)])
    assert len(answer._rendered) <= 256
    assert len(answer._names) <= 1024


@pytest.mark.parametrize(("legacy", "keep", "says"), [(True, True, b"keep-alive"), (False, False, b"close")])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_one_of_our_own_counts_its_bytes_and_says_what_becomes_of_the_connection(
    method: str, legacy: bool, keep: bool, says: bytes
) -> None:
    answer = Answer(method, legacy, True)
    answer._lines = render(200, [(b"x-app", b"1")])
    data = answer.own(503, STAMPS, keep=keep, text="later", fields=[(b"retry-after", b"1")])
    head, _, body = data.partition(b"\r\n\r\n")
    assert body == (b"" if method == "HEAD" else b"503 Service Unavailable: later\n")
    assert (answer.status, answer.sent, answer.keep) == (503, len(body), keep)
    assert b"retry-after: 1" in head
    assert b"connection: " + says in head
    assert answer.answered() == b"", "nothing of what the app has said was sent"


def test_plain_answers_end_the_connection() -> None:
    data = plain(400, "why", STAMPS)
    assert data.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"connection: close" in data
    assert data.endswith(b"\r\n\r\n400 Bad Request: why\n")


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=12)), max_size=5), st.binary(max_size=40))
def test_whatever_an_app_sets_one_message_comes_out(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    try:
        data = whole(headers, body)
    except AnswerError:
        return
    head, _, rest = data.partition(b"\r\n\r\n")
    assert rest == body
    assert all(re.fullmatch(rb"[^\r\n\0]+", line) for line in head.split(b"\r\n"))
    assert len(head.split(b"\r\n")) <= len(headers) + 5
