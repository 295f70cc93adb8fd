"""Answers as bytes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.serve.answer import Answer, AnswerError, Stamps, plain, render, render_text

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
    assert b"content-length: 7" in whole([(b"content-length", b"7")], b"", status=304)


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
    from supervisor.serve import answer

    for number in range(3000):
        render(200, [(b"x-%d" % number, b"%d" % number)])
    assert len(answer._rendered) <= 256
    assert len(answer._names) <= 1024


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
