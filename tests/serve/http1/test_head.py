"""Request heads as zttp leaves them, judged: every gap of zttp that head.py closes, with the bytes that show it."""

from __future__ import annotations

import pytest
import zttp
from hypothesis import given
from hypothesis import strategies as st

from supervisor.serve.http1.head import (
    LARGE_HEAD,
    LONG_LINE,
    MANY_FIELDS,
    Refusal,
    Target,
    decode_path,
    is_host,
    judge,
    judge_partial,
    judge_size,
    refusal_of,
    skip_empty_lines,
)
from supervisor.serve.limits import Limits

LIMITS = Limits()


def verdict(raw: bytes) -> Target | Refusal | None:
    request = zttp.Connection(zttp.SERVER).receive_event(raw)
    assert isinstance(request, zttp.Request)
    return judge(request)


def status(raw: bytes) -> int:
    found = verdict(raw)
    assert isinstance(found, Refusal), found
    return found.status


def request(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PROPFIND", b"M-SEARCH"])
def test_an_ordinary_request_needs_no_other_target(method: bytes) -> None:
    raw = request(method + b" /a?b HTTP/1.1", b"Host: example.com")
    assert verdict(raw) is None
    assert verdict(raw) is None  # the second time by what was learnt


@pytest.mark.parametrize(
    "host",
    [
        b"a",
        b"a:80",
        b"a.b-c_d:1",
        b"127.0.0.1:8000",
        b"[::1]",
        b"[::1]:8000",
        b"[v1.a:b]",
        b"xn--bcher-kva.de",
        b"a%20b",
        b"a:",
    ],
)
def test_valid_hosts_pass(host: bytes) -> None:
    assert is_host(host)
    assert verdict(request(b"GET / HTTP/1.1", b"Host: " + host)) is None


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a b",
        b"a/b",
        b"a@b",
        b"a,b",
        b"a:b",
        b"[::1",
        b"::1",
        b"[]",
        b"a:80:80",
        b"a\xff",
        b"a?b",
        b"a#b",
        b"a%zz",
        b"a" * 301,
    ],
)
def test_what_is_no_host_is_refused(host: bytes) -> None:
    if host == b"a,b":
        assert is_host(host)  # RFC 3986 allows sub-delims in a reg-name
        return
    assert status(request(b"GET / HTTP/1.1", b"Host: " + host)) == 400


def test_one_host_is_required_of_every_version_but_the_first() -> None:
    assert status(request(b"GET / HTTP/1.2")) == 400
    assert status(request(b"GET / HTTP/1.2", b"Host: a", b"Host: a")) == 400
    assert status(request(b"GET / HTTP/1.0", b"Host: a", b"Host: a")) == 400
    assert verdict(request(b"GET / HTTP/1.0")) is None
    assert verdict(request(b"GET / HTTP/1.2", b"Host: a")) is None


def test_an_absolute_target_gives_its_path() -> None:
    assert verdict(request(b"GET http://a:1/b/c?d=e HTTP/1.1", b"Host: A:1")) == Target(b"/b/c", b"d=e")
    assert verdict(request(b"GET HTTPS://a HTTP/1.1", b"Host: a")) == Target(b"/", b"")
    assert verdict(request(b"GET http://a?x HTTP/1.1", b"Host: a")) == Target(b"/", b"x")


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://b/ HTTP/1.1",  # Host says a
        b"GET http:///x HTTP/1.1",
        b"GET http://a@b/ HTTP/1.1",
        b"GET ftp://a/ HTTP/1.1",
        b"GET x HTTP/1.1",
        b"GET a:80 HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET /a#b HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET /?\xff HTTP/1.1",
        b"GET \xff HTTP/1.1",
    ],
)
def test_a_target_in_the_wrong_form_is_refused(line: bytes) -> None:
    assert status(request(line, b"Host: a")) == 400


def test_the_asterisk_is_for_options() -> None:
    assert verdict(request(b"OPTIONS * HTTP/1.1", b"Host: a")) == Target(b"*", b"")


def test_connect_and_unregistered_methods_are_not_implemented() -> None:
    assert status(request(b"CONNECT a:80 HTTP/1.1", b"Host: a")) == 501
    assert status(request(b"get / HTTP/1.1", b"Host: a")) == 501


def test_framing_that_leaves_a_choice_is_refused() -> None:
    host = b"Host: a"
    assert status(request(b"POST / HTTP/1.1", host, b"Transfer-Encoding: gzip, chunked")) == 501
    assert status(request(b"POST / HTTP/1.0", host, b"Transfer-Encoding: chunked")) == 400
    assert status(request(b"POST / HTTP/1.1", host, b"Content-Length: 3", b"Content-Length: 3")) == 400
    assert verdict(request(b"POST / HTTP/1.1", host, b"Transfer-Encoding: chunked")) is None
    assert verdict(request(b"POST / HTTP/1.1", host, b"Content-Length: 3")) is None


@pytest.mark.parametrize(
    ("raw", "oversized", "expected"),
    [
        (b"GET / HTTP/2.0\r\n\r\n", False, 505),
        (b"PRI * HTTP/2.0\r\n\r\n", False, 505),
        (b"GET / HTTP/0.9\r\n\r\n", False, 505),
        (b"GET /\r\n\r\n", False, 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", False, 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", True, 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", False, 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\n", False, 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", False, 400),
    ],
)
def test_what_zttp_refuses_gets_its_status(raw: bytes, oversized: bool, expected: int) -> None:
    with pytest.raises(zttp.RemoteProtocolError):
        zttp.Connection(zttp.SERVER).receive_event(raw if not oversized else raw[:-2] + b"X: y\r\n" * 200 + b"\r\n")
    assert refusal_of(raw, oversized).status == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x16\x03\x01\x02\x00", 400),  # TLS
        (b"GE\x00", 400),
        (b" GET", 400),
        (b"GET / HTTP/1.1\nHost: a\n", 400),
        (b"GET /" + b"a" * LIMITS.request_line, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * LIMITS.head, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", None),
        (b"G", None),
        (b"\r", None),
    ],
)
def test_a_head_that_can_come_to_nothing_is_refused_early(data: bytes, expected: int | None) -> None:
    found = judge_partial(data, 0, LIMITS)
    assert (found and found.status) == expected


def test_a_bare_line_feed_is_found_at_the_seam_of_two_reads() -> None:
    assert judge_partial(b"GET / HTTP/1.1\r\n", 15, LIMITS) is None
    found = judge_partial(b"GET / HTTP/1.1\n", 14, LIMITS)
    assert found is not None
    assert found.status == 400


def test_whole_heads_are_measured() -> None:
    line = b"GET /" + b"a" * LIMITS.request_line + b" HTTP/1.1\r\n\r\n"
    assert judge_size(line, LIMITS) is LONG_LINE
    fat = b"GET / HTTP/1.1\r\nX: " + b"a" * LIMITS.head + b"\r\n\r\n"
    assert judge_size(fat, LIMITS) is LARGE_HEAD
    assert judge_size(b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", LIMITS) is None
    three = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 3 + b"\r\n"
    assert judge_size(three, Limits(fields=3)) is None
    assert judge_size(three, Limits(fields=2)) is MANY_FIELDS


def test_which_of_zttps_own_limits_was_broken_is_told() -> None:
    assert refusal_of(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", True) is MANY_FIELDS
    assert refusal_of(b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", True) is LARGE_HEAD
    assert refusal_of(b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\n\r\n", True) is LONG_LINE


def test_empty_lines_are_skipped_and_a_lone_cr_waits() -> None:
    assert skip_empty_lines(b"\r\n\r\nGET") == b"GET"
    assert skip_empty_lines(b"\r\n\r") == b"\r"
    assert skip_empty_lines(b"\r\n") == b""


def test_paths_are_decoded_as_utf_8() -> None:
    assert decode_path(b"/a/b") == "/a/b"
    assert decode_path(b"/%C3%A9%20%2F") == "/é /"
    assert decode_path(b"/%ff") == "/\ufffd"


@given(st.binary(max_size=200))
def test_no_partial_head_raises(data: bytes) -> None:
    if data:
        judge_partial(data, 0, LIMITS)
    refusal_of(data, False)
    skip_empty_lines(data)
