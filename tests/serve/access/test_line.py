"""Lines of the access log from every format, whatever a client has sent."""

from __future__ import annotations

import json
import re
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import zttp
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.values import parse_access_format
from supervisor.serve.access.line import COMBINED, Client, Clock, Writer, compile_format
from supervisor.serve.access.text import MAX_VALUE, Memo, json_quoted, quoted
from supervisor.serve.access.trace import Trace
from supervisor.serve.http1.familiar import head_of

HEAD = (
    b"GET /a%20b?x=1&y HTTP/1.1\r\nHost: x\r\nReferer: http://r/\r\nUser-Agent: curl/8\r\nX-Request-ID: r-1\r\n"
    b'Authorization: Basic YWRhOnNlY3JldA==\r\nX-Odd: \xe4"\r\n\r\n'
)

NOW = 5000.25
WALL = 1795223015.9115


class Done:
    """A finished exchange that took `seconds` until NOW."""

    def __init__(self, head: bytes = HEAD, *, sent: int = 5, seconds: float = 1.2345678) -> None:
        request = zttp.Connection(zttp.SERVER).receive_event(head)
        assert isinstance(request, zttp.Request)
        self.head = head_of(head, request, request.path, request.query, None)
        self.status = 200
        self.sent = sent
        self.since = NOW - seconds
        self.trace = Trace(request, True, SimpleNamespace(draining=threading.Event(), named=lambda name: None))

    def answered(self) -> bytes:
        return b"HTTP/1.1 200 OK\r\nX-Pid: 7\r\nX-Last: \xe4\r\n"


def line(template: str, done: Any = None, client: Client = ("192.0.2.1", 5), clock: Clock | None = None) -> str:
    clock = clock or Clock(now=lambda: NOW, wall=lambda: WALL)
    render = compile_format(parse_access_format(template), Writer("web:2", 3, 4711), clock)
    exchange: Any = done or Done()
    written = render(client, exchange)
    assert written.endswith("\n")
    return written[:-1]


EVERYTHING = (
    "%(h)s %(l)s %(u)s %(t)s %(r)s %(s)s %(m)s %(U)s %(q)s %(H)s %(b)s %(B)s %(f)s %(a)s %(T)s %(M)s %(D)s %(L)s %(p)s "
    "%({host}i)s %({x-pid}o)s %({home}e)s %(w)s %(g)s %(I)s head %% said"
)


@pytest.mark.parametrize("template", ["combined", "json", EVERYTHING, "%(m)s", "%(s)s", "%({cookie}i)s", "100 %%"])
@pytest.mark.parametrize("head", [HEAD, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.0\r\nReferer: r\r\n\r\n"])
def test_a_head_that_comes_again_is_logged_as_any_other(template: str, head: bytes) -> None:
    render = compile_format(
        parse_access_format(template), Writer("web:2", 3, 4711), Clock(now=lambda: NOW, wall=lambda: WALL)
    )
    kept = Done(head).head
    kept.is_kept = True
    for status, sent, seconds, client in ((200, 5, 1.5, ("192.0.2.1", 5)), (404, 0, 0.25, None), (200, 5, 1.5, None)):
        plain: Any = Done(head, sent=sent, seconds=seconds)
        again: Any = Done(head, sent=sent, seconds=seconds)
        again.head = kept
        plain.status = again.status = status
        plain.trace.name = again.trace.name = f"{status}{sent}"
        assert render(client, again) == render(client, plain)


@pytest.mark.parametrize(
    ("atom", "text"),
    [
        ("h", "192.0.2.1"),
        ("l", "-"),
        ("u", "ada"),
        ("r", "GET /a%20b?x=1&y HTTP/1.1"),
        ("m", "GET"),
        ("U", "/a%20b"),
        ("q", "x=1&y"),
        ("H", "HTTP/1.1"),
        ("s", "200"),
        ("B", "5"),
        ("b", "5"),
        ("f", "http://r/"),
        ("a", "curl/8"),
        ("T", "1"),
        ("D", "1234567"),
        ("M", "1234"),
        ("L", "1.234567"),
        ("p", "<4711>"),
        ("I", "r-1"),
        ("w", "web:2"),
        ("g", "3"),
        ("{User-Agent}i", "curl/8"),
        ("{x-odd}i", "\\xe4\\x22"),
        ("{absent}i", "-"),
        ("{host}i", "x"),
        ("{x-pid}o", "7"),
        ("{X-Last}o", "\\xe4"),
        ("{http}o", "-"),
        ("{HF_SHOWN}e", "yes"),
        ("{HF_ABSENT}e", "-"),
    ],
)
def test_each_atom_says_what_gunicorns_does(atom: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_SHOWN", "yes")
    assert line(f"[%({atom})s] 100%%") == f"[{text}] 100%"


def test_the_time_is_apaches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        assert line("%(t)s") == "[21/Nov/2026:03:03:35 +0200]"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_clock_is_renewed_when_its_second_is_over_and_not_before() -> None:
    now, wall = 7.0, 1000.75
    clock = Clock(now=lambda: now, wall=lambda: wall)
    assert (clock.unix, clock.begun, clock.until) == ("1000", 6.25, 7.25)
    now, wall = 7.24, 5000.0  # set meanwhile: the next second sees it
    assert clock.renew() == 7.24
    assert clock.unix == "1000"
    now = 7.25
    clock.renew()
    assert (clock.unix, clock.until) == ("5000", 8.25)


def test_json_has_the_millisecond_in_which_the_answer_ended_also_when_the_clock_is_of_an_earlier_second() -> None:
    now, wall = 7.0, 1000.75
    clock = Clock(now=lambda: now, wall=lambda: wall)
    assert json.loads(line("json", clock=clock))["ts"] == 1000.75
    now, wall = 7.5, 1001.25
    assert json.loads(line("json", clock=clock))["ts"] == 1001.25


def test_combined_is_apaches() -> None:
    written = re.sub(r"\[.*?\]", "[]", line("combined"))
    assert written == '192.0.2.1 - ada [] "GET /a%20b?x=1&y HTTP/1.1" 200 5 "http://r/" "curl/8"'
    assert line("x" + COMBINED) == "x" + line("combined")


def test_an_empty_body_is_a_dash_in_apaches_count_and_0_in_bytes() -> None:
    assert line("%(b)s %(B)s", Done(sent=0)) == "- 0"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.0, "0 0 0 0.000000"), (0.000999, "0 0 999 0.000999"), (61.5, "61 61500 61500000 61.500000")],
)
def test_durations_are_cut_to_their_unit(seconds: float, written: str) -> None:
    assert line("%(T)s %(M)s %(D)s %(L)s", Done(seconds=seconds + 1e-9)) == written


def test_json_names_worker_generation_and_request() -> None:
    record = json.loads(line("json"))
    assert (record["worker"], record["generation"], record["request_id"]) == ("web:2", 3, "r-1")
    assert (record["duration"], record["bytes"], record["client"]) == (1.234567, 5, "192.0.2.1")
    assert (record["protocol"], record["status"], record["method"]) == ("HTTP/1.1", 200, "GET")


def test_a_client_of_a_unix_socket_has_no_address() -> None:
    assert json.loads(line("json", client=None))["client"] is None
    assert line("%(h)s", client=None) == "-"


def test_a_head_without_fields_has_nothing_to_say() -> None:
    bare = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert line("%(u)s %(f)s %(a)s %({x-odd}i)s", Done(bare)) == "- - - -"
    assert line("%({host}i)s %(a)s", Done(bare)) == "x -"
    record = json.loads(line("json", Done(bare)))
    assert (record["referer"], record["user_agent"]) == (None, None)


def test_the_only_field_of_http_1_0_is_found() -> None:
    assert line("%(a)s %(H)s", Done(b"GET / HTTP/1.0\r\nUser-Agent: ab\r\n\r\n")) == "ab HTTP/1.0"
    assert line("%(I)s", Done(b"GET / HTTP/1.0\r\nX-Request-ID: one\r\n\r\n")) == "one"


def test_a_format_is_text_and_never_code() -> None:
    text = """'"\\{client}%%s{0} + __import__("os") 'é"""
    assert line("%(s)s" + text) == "200" + text.replace("%%", "%")


def test_a_wsgi_environ_is_looked_into_before_the_process_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_SHOWN", "process")
    done = Done()
    done.environ = {"HF_SHOWN": "request", "wsgi.url_scheme": "https", "REMOTE_USER": 'ä"\n', "app.number": 5}  # type: ignore[attr-defined]
    asked = "%({HF_SHOWN}e)s %({wsgi.url_scheme}e)s %({remote_user}e)s %({app.number}e)s %({ABSENT}e)s"
    assert line(asked, done) == "request https \\xe4\\x22\\x0a 5 -"
    assert line("%({HF_SHOWN}e)s") == "process"


@pytest.mark.parametrize("value", ["Basic", "Basic !", "Bearer abc", "Basic " + "QQ" * 1000, "Basic Og==", "Basic  "])
def test_credentials_that_are_none_are_a_dash(value: str) -> None:
    assert line("%(u)s", Done(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: {value}\r\n\r\n".encode())) == "-"


def test_a_name_cannot_break_the_columns() -> None:
    head = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic IiBhIDpi\r\n\r\n"  # '" a :b'
    assert line("%(u)s", Done(head)) == "\\x22\\x20a\\x20"


@given(st.binary(max_size=200))
def test_json_is_printable_ascii_and_says_what_was_sent(value: bytes) -> None:
    text = json_quoted(value)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == value.decode("latin-1")


def test_a_value_is_cut_where_a_request_line_would_end() -> None:
    assert quoted(b"x" * 60_000) == "x" * MAX_VALUE + "..."
    assert json.loads(json_quoted(b"\xff" * 60_000)) == "\xff" * MAX_VALUE + "..."


def test_a_memo_stays_small() -> None:
    memo: Memo[bytes] = Memo(quoted)
    for number in range(5000):
        assert memo[b"%d" % number] == str(number)
    assert memo[b"x" * 1000] == "x" * 1000
    assert len(memo) < 1100
    assert b"x" * 1000 not in memo


@given(st.binary(max_size=200))
def test_quoted_is_printable_and_unquoted(value: bytes) -> None:
    text = quoted(value)
    assert text.isascii()
    assert text == "" or text.isprintable()
    assert '"' not in text


@pytest.mark.parametrize(
    "wrong",
    ["%(x)s", "%h", "%(h)", "%({a}x)s", "%({}i)s", "%({a b}i)s", "%(i)s", "100%", "a\nb", "", "plain", 5, "x" * 5000],
)
def test_a_format_that_says_nothing_or_nonsense_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=", not "):
        parse_access_format(wrong)
