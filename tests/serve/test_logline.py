"""Lines of the access log from every format, whatever a client has sent."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest
import zttp
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.values import parse_access_format
from supervisor.serve.logline import COMBINED, Writer, compile_format, quoted
from supervisor.serve.trace import Trace

HEAD = (
    b"GET /a%20b?x=1&y HTTP/1.1\r\nHost: x\r\nReferer: http://r/\r\nUser-Agent: curl/8\r\nX-Request-ID: r-1\r\n"
    b'Authorization: Basic YWRhOnNlY3JldA==\r\nX-Odd: \xe4"\r\n\r\n'
)


class Done:
    """A finished exchange."""

    def __init__(self, head: bytes = HEAD, *, sent: int = 5) -> None:
        request = zttp.Connection(zttp.SERVER).receive_event(head)
        assert isinstance(request, zttp.Request)
        self.request = request
        self.method = request.method.decode()
        self.status = 200
        self.sent = sent
        self.trace = Trace(request, True, threading.Event())

    def answered(self) -> bytes:
        return b"HTTP/1.1 200 OK\r\nX-Pid: 7\r\n"


def line(template: str, done: Any = None, seconds: float = 1.2345678) -> str:
    render = compile_format(parse_access_format(template), Writer("web:2", 3, 4711))
    exchange: Any = done or Done()
    written = render(("192.0.2.1", 5), exchange, seconds).decode("ascii")
    assert written.endswith("\n")
    return written[:-1]


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
        ("L", "1.234568"),
        ("p", "<4711>"),
        ("I", "r-1"),
        ("w", "web:2"),
        ("g", "3"),
        ("{User-Agent}i", "curl/8"),
        ("{x-odd}i", "\\xe4\\x22"),
        ("{absent}i", "-"),
        ("{x-pid}o", "7"),
        ("{http}o", "-"),
        ("{HF_SHOWN}e", "yes"),
        ("{HF_ABSENT}e", "-"),
    ],
)
def test_each_atom_says_what_gunicorns_does(atom: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_SHOWN", "yes")
    assert line(f"[%({atom})s] 100%%") == f"[{text}] 100%"


def test_the_time_is_apaches() -> None:
    assert re.fullmatch(r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]", line("%(t)s"))


def test_combined_is_what_its_atoms_say() -> None:
    written_out, from_atoms = line("combined"), line("x" + COMBINED)
    unclocked = [re.sub(r"\[.*?\]", "[]", text) for text in (written_out, from_atoms)]
    assert "x" + unclocked[0] == unclocked[1]
    assert unclocked[0] == '192.0.2.1 - ada [] "GET /a%20b?x=1&y HTTP/1.1" 200 5 "http://r/" "curl/8"'


def test_an_empty_body_is_a_dash_in_apaches_count_and_0_in_bytes() -> None:
    assert line("%(b)s %(B)s", Done(sent=0)) == "- 0"


def test_json_names_worker_generation_and_request() -> None:
    record = json.loads(line("json"))
    assert (record["worker"], record["generation"], record["request_id"]) == ("web:2", 3, "r-1")
    assert (record["duration"], record["bytes"], record["client"]) == (1.234568, 5, "192.0.2.1")


@pytest.mark.parametrize("value", ["Basic", "Basic !", "Bearer abc", "Basic " + "QQ" * 1000, "Basic Og==", "Basic  "])
def test_credentials_that_are_none_are_a_dash(value: str) -> None:
    assert line("%(u)s", Done(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: {value}\r\n\r\n".encode())) == "-"


def test_a_name_cannot_break_the_columns() -> None:
    head = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic IiBhIDpi\r\n\r\n"  # '" a :b'
    assert line("%(u)s", Done(head)) == "\\x22\\x20a\\x20"


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
