"""Trusted peers: whom they may speak for, and that nobody else's word counts."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import zttp
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.serve.edge.peers import Trust, client_of, node_of
from supervisor.serve.http1.head import fields, mounted, split_host
from tests.serve.harness import Harness, read_until

PEER = (("127.0.0.1", 5), ("127.0.0.1", 8000), "http")
TRUST = Trust(("127.0.0.1/32", "10.0.0.0/8"))


def seen(*lines: str, trust: Trust = TRUST, server: Any = PEER[1]) -> tuple[Any, Any, str]:
    head = "".join(f"{line}\r\n" for line in ("GET / HTTP/1.1", "Host: app.org", *lines)) + "\r\n"
    request = zttp.Connection(zttp.SERVER).receive_event(head.encode("latin-1"))
    assert isinstance(request, zttp.Request)
    return client_of(fields(request), trust, (PEER[0], server, PEER[2]))


@pytest.mark.parametrize(
    ("lines", "client", "scheme"),
    [
        (["X-Forwarded-For: 192.0.2.1"], ("192.0.2.1", 0), "http"),
        (["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https"], ("192.0.2.1", 0), "https"),
        (["X-Forwarded-For: 192.0.2.1:4711"], ("192.0.2.1", 4711), "http"),
        (["X-Forwarded-For: 2001:DB8::1"], ("2001:db8::1", 0), "http"),
        (["X-Forwarded-For: [2001:db8::1]:80"], ("2001:db8::1", 80), "http"),
        (["X-Forwarded-For: ::ffff:192.0.2.1"], ("192.0.2.1", 0), "http"),
        (["X-Forwarded-Proto: WSS"], PEER[0], "https"),
        (["X-Forwarded-For: 6.6.6.6, 192.0.2.1"], ("192.0.2.1", 0), "http"),
        (["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.1,10.1.1.1 , 10.9.9.9"], ("192.0.2.1", 0), "http"),
        (["X-Forwarded-For: 10.1.1.1, 10.2.2.2"], ("10.1.1.1", 0), "http"),
        (["X-Forwarded-For: 192.0.2.1, 10.1.1.1", "X-Forwarded-Proto: https, http"], ("192.0.2.1", 0), "http"),
        (["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https, http"], ("192.0.2.1", 0), "http"),
        (["Forwarded: for=192.0.2.1;proto=https;by=10.0.0.1"], ("192.0.2.1", 0), "https"),
        (['Forwarded: For="[2001:db8::1]:4711"'], ("2001:db8::1", 4711), "http"),
        (['Forwarded: for=6.6.6.6;proto=https, for="192.0.2.1", for=10.1.1.1'], ("192.0.2.1", 0), "http"),
        (["Forwarded: for=192.0.2.1;proto=https, for=10.1.1.1;proto=http"], ("192.0.2.1", 0), "https"),
    ],
)
def test_the_last_address_that_is_not_trusted_is_the_client(
    lines: list[str], client: tuple[str, int], scheme: str
) -> None:
    assert seen(*lines) == (client, PEER[1], scheme)


@pytest.mark.parametrize(
    "lines",
    [
        ["X-Forwarded-For: unknown"],
        ["X-Forwarded-For: 192.0.2.1, localhost"],
        ["X-Forwarded-For: 192.0.2.1, 999.1.1.1"],
        ["X-Forwarded-For: 192.0.2.1:99999"],
        ["X-Forwarded-For: 192.0.2.1:_"],
        ["X-Forwarded-For: 192.0.2.1:_a b"],
        ["X-Forwarded-For: ,"],
        ["X-Forwarded-For: 0192.0.2.1"],
        ["X-Forwarded-For: [192.0.2.1]"],
        ["X-Forwarded-For: fe80::1%eth0"],
        ["X-Forwarded-For: " + "1" * 5000],
        ["X-Forwarded-Proto: gopher"],
        ["X-Forwarded-Proto: https http"],
        ["Forwarded: for=_hidden"],
        ["Forwarded: for=unknown;proto=ftp"],
        ["Forwarded: for = 192.0.2.1"],
        ["Forwarded: for=192.0.2.1 proto=https"],
        ['Forwarded: for="192.0.2.1'],
        ["Forwarded: for=[2001:db8::1]"],
        ["Forwarded: for=192.0.2.1;proto=https, ???"],
        ["Forwarded: for=192.0.2.1;proto=https, ;"],
        ["Forwarded:"],
        ["Forwarded: , ,"],
    ],
)
def test_what_does_not_parse_changes_nothing(lines: list[str]) -> None:
    assert seen(*lines) == PEER


@pytest.mark.parametrize("empty", [",", " , ,,\t", ",,,"])
def test_empty_elements_of_a_list_are_none(empty: str) -> None:
    told = (("192.0.2.1", 0), ("a.org", 443), "https")
    values = {"For": "192.0.2.1", "Proto": "https", "Host": "a.org", "Port": "443"}
    assert seen(*(f"X-Forwarded-{name}: {value}{empty}" for name, value in values.items())) == told
    assert (
        seen(*(f"X-Forwarded-{name}: {line}" for name, value in values.items() for line in (value, "", empty))) == told
    )
    assert seen(f"X-Forwarded-For: 192.0.2.1 {empty} 10.1.1.1")[0] == ("192.0.2.1", 0)
    forwarded = "Forwarded: for=192.0.2.1;proto=https;host=a.org"
    assert seen(forwarded + empty) == seen(forwarded, "Forwarded:") == told
    assert seen(f"{forwarded} {empty} for=10.1.1.1", f"Forwarded: {empty}") == told


def test_a_list_of_nothing_takes_no_longer_than_another() -> None:
    began = time.process_time()
    for _ in range(10):
        assert seen("Forwarded: " + "," * 4000) == seen("X-Forwarded-For: " + "," * 4000) == PEER
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(("node", "host"), [("192.0.2.1:_obf", "192.0.2.1"), ("[2001:db8::1]:_A-.9", "2001:db8::1")])
def test_a_hidden_port_is_none(node: str, host: str) -> None:
    assert seen(f'Forwarded: for="{node}"')[0] == (host, 0)


def test_what_is_too_long_to_be_remembered_says_nothing_of_what_it_begins_with() -> None:
    long = b"192.0.2.1:_" + b"x" * 53
    assert node_of(long + b"?") is None
    assert node_of(long) == ("192.0.2.1", 0)


def test_a_walk_ends_at_the_last_hop_that_is_known() -> None:
    assert seen("X-Forwarded-For: 6.6.6.6, unknown, 10.1.1.1")[0] == ("10.1.1.1", 0)
    assert seen("Forwarded: for=6.6.6.6, for=_x, for=10.1.1.1;proto=https") == (("10.1.1.1", 0), PEER[1], "https")


@pytest.mark.parametrize("start", ['for="', 'for=1.1.1.1;by="', 'for="x\\', ',,;"', 'for="[', '"', "for=\\"])
@pytest.mark.parametrize(
    "own", ["for=192.0.2.1;proto=https", 'proto=https;for="192.0.2.1"', 'for="192.0.2.1:0";proto="https"']
)
def test_no_beginning_that_a_client_sends_hides_what_the_proxy_has_added(start: str, own: str) -> None:
    assert seen(f"Forwarded: {start}, {own}") == (("192.0.2.1", 0), PEER[1], "https")
    assert seen(f"Forwarded: {start}", f"Forwarded: {own}") == (("192.0.2.1", 0), PEER[1], "https")


def test_forwarded_counts_only_without_the_other_family() -> None:
    assert seen("Forwarded: for=6.6.6.6;proto=https", "X-Forwarded-For: 192.0.2.1") == (("192.0.2.1", 0), *PEER[1:])
    assert seen("Forwarded: for=6.6.6.6", "X-Forwarded-Proto: https") == (*PEER[:2], "https")
    assert seen("Forwarded: for=6.6.6.6", "X-Forwarded-Host: a.org") == (PEER[0], ("a.org", 80), "http")
    assert seen("Forwarded: for=6.6.6.6", "X-Forwarded-Port: 81") == (PEER[0], ("127.0.0.1", 81), "http")


@pytest.mark.parametrize(
    ("lines", "server"),
    [
        (["X-Forwarded-Host: shop.org"], ("shop.org", 80)),
        (["X-Forwarded-Host: shop.org", "X-Forwarded-Proto: https"], ("shop.org", 443)),
        (["X-Forwarded-Host: shop.org:8443"], ("shop.org", 8443)),
        (["X-Forwarded-Host: shop.org", "X-Forwarded-Port: 8443"], ("shop.org", 8443)),
        (["X-Forwarded-Host: [2001:db8::1]", "X-Forwarded-Port: 81"], ("2001:db8::1", 81)),
        (["X-Forwarded-Host: evil.org, shop.org"], ("shop.org", 80)),
        (["X-Forwarded-Host: shop.org/?"], PEER[1]),
        (["X-Forwarded-Host: shop.org:8443", "X-Forwarded-Port: 81"], ("shop.org", 8443)),
        (["X-Forwarded-Host: shop.org", "X-Forwarded-Port: 99999"], ("shop.org", 80)),
        (["X-Forwarded-Host: shop.org", "X-Forwarded-Port: 0"], ("shop.org", 80)),
        (["X-Forwarded-Host: shop.org/?", "X-Forwarded-Port: 8443"], ("127.0.0.1", 8443)),
        (["X-Forwarded-Port: 443"], ("127.0.0.1", 443)),
        (["X-Forwarded-Port: 443x"], PEER[1]),
    ],
)
def test_the_host_that_a_proxy_was_asked_for_is_the_server(lines: list[str], server: tuple[str, int]) -> None:
    assert seen("X-Forwarded-For: 192.0.2.1", *lines)[1] == server
    assert seen(*lines)[1] == server, "and it need not say for whom"


def test_the_port_that_a_load_balancer_sends_without_a_host_is_the_servers() -> None:
    lines = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443")  # as AWS ALB does
    assert seen(*lines) == (("192.0.2.1", 0), ("127.0.0.1", 443), "https")


@pytest.mark.parametrize("server", [("/run/app.sock", None), None])
def test_where_the_server_has_no_port_it_is_given_one_with_a_host_only(server: Any) -> None:
    assert seen("X-Forwarded-Port: 443", server=server)[1] == server
    assert seen("X-Forwarded-Port: 443", "X-Forwarded-Host: a.org", server=server)[1] == ("a.org", 443)


@pytest.mark.parametrize("hops", ["9.9.9.9", "9.9.9.9, 10.0.0.1", "6.6.6.6, 9.9.9.9, 10.0.0.1, 10.0.0.2"])
@pytest.mark.parametrize("sent", ["", "{0}, ", "{0}, {0}, ", "{0}, {0}, {0}, "])
def test_however_many_values_a_client_has_written_the_peers_own_count(hops: str, sent: str) -> None:
    own = {"Proto": ("http", "https"), "Host": ("evil.org", "shop.org"), "Port": ("666", "8443")}
    lines = [f"X-Forwarded-{name}: {sent.format(evil)}{good}" for name, (evil, good) in own.items()]
    assert seen(f"X-Forwarded-For: {hops}", *lines) == (("9.9.9.9", 0), ("shop.org", 8443), "https")


def test_the_host_of_forwarded_is_the_server_too() -> None:
    assert seen('Forwarded: for=192.0.2.1;proto=https;host="shop.org"')[1] == ("shop.org", 443)


def test_of_a_very_long_chain_the_near_end_is_looked_at() -> None:
    chain = ", ".join(["10.1.1.1"] * 500)
    assert seen(f"X-Forwarded-For: 6.6.6.6, {chain}")[0] == ("10.1.1.1", 0)
    assert seen("Forwarded: " + ", ".join(["for=10.1.1.1"] * 500))[0] == ("10.1.1.1", 0)


def test_trust_in_everybody_takes_the_first_address() -> None:
    assert seen("X-Forwarded-For: 192.0.2.1, 203.0.113.5", trust=Trust(("*",)))[0] == ("192.0.2.1", 0)


def test_trust_is_by_network_and_nobody_is_nobody() -> None:
    trust = Trust(("10.0.0.0/8", "2001:db8::/32"))
    assert all(map(trust.covers, ("10.255.0.1", "2001:db8:1::", "::ffff:10.0.0.1")))
    assert not any(map(trust.covers, ("11.0.0.1", "2001:db9::", "fe80::1%eth0")))
    assert trust.covers(None)
    assert not Trust(()).covers(None)
    assert not Trust(()).covers("127.0.0.1")
    for number in range(3000):  # what was looked up is forgotten, not collected
        trust.covers(f"10.0.{number // 256}.{number % 256}")
    assert trust.covers(None)
    assert not trust.covers("11.0.0.1")


@given(st.text(st.sampled_from(' \t,;="\\\\for192.0:[]proto'), max_size=60))
@example('for="')
def test_a_proxys_own_address_is_found_behind_anything(start: str) -> None:
    assert seen(f"Forwarded: {start}", "Forwarded: for=192.0.2.1")[0] == ("192.0.2.1", 0)
    assert seen(f"X-Forwarded-For: {start}", "X-Forwarded-For: 192.0.2.1")[0] == ("192.0.2.1", 0)


@given(st.binary(max_size=80))
def test_no_text_is_an_address_by_accident(text: bytes) -> None:
    node = node_of(text)
    if node is not None:
        socket.inet_pton(socket.AF_INET6 if ":" in node[0] else socket.AF_INET, node[0])


@pytest.mark.parametrize(
    ("host", "parts"),
    [
        (b"a.org", ("a.org", None)),
        (b"a.org:", ("a.org", None)),
        (b"a.org:80", ("a.org", 80)),
        (b"[::1]", ("::1", None)),
        (b"[::1]:80", ("::1", 80)),
        (b"a.org:65536", None),
        (b"a b", None),
        (b"", None),
    ],
)
def test_a_host_is_split_from_its_port(host: bytes, parts: object) -> None:
    assert split_host(host) == parts


# Over the wire


async def tell(scope: dict[str, Any], receive: Any, send: Any) -> None:
    told = {key: scope[key] for key in ("scheme", "client", "server", "path", "raw_path", "root_path")}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told, default=bytes.decode).encode()})


def wsgi_tell(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    names = ("wsgi.url_scheme", "HTTPS", "REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "HTTP_HOST")
    return [json.dumps({name: environ.get(name) for name in (*names, "SCRIPT_NAME", "PATH_INFO")}).encode()]


def asked(sock: socket.socket, *lines: str, path: str = "/p") -> Any:
    head = f"GET {path} HTTP/1.1\r\nHost: app.org\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    sock.sendall(head.encode())
    return json.loads(read_until(sock, b"}").partition(b"\r\n\r\n")[2])


def test_each_request_of_a_trusted_connection_speaks_for_its_own_client() -> None:
    with Harness(tell) as harness, harness.connect() as sock:
        own = asked(sock)
        assert own["client"] == list(sock.getsockname())
        other = asked(sock, "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: a.org")
        assert (other["client"], other["scheme"], other["server"]) == (["192.0.2.1", 0], "https", ["a.org", 443])
        assert asked(sock) == own
        for _ in range(64):  # also as heads that come again
            assert asked(sock, "X-Forwarded-Host: a.org")["server"] == ["a.org", 80]
            assert asked(sock, "X-Forwarded-Port: 444")["server"] == ["127.0.0.1", 444]
        assert asked(sock) == own


@pytest.mark.parametrize("trusted", [(), ("192.0.2.0/24",)])
def test_a_peer_that_is_not_trusted_speaks_for_itself(trusted: tuple[str, ...]) -> None:
    with Harness(tell, forwarded_allow_ips=trusted) as harness, harness.connect() as sock:
        told = asked(sock, "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "Forwarded: for=192.0.2.1")
        assert (told["client"], told["scheme"]) == (list(sock.getsockname()), "http")


@pytest.mark.parametrize(("trusted", "believed"), [(("192.0.2.0/24",), True), ((), False)])
def test_a_unix_socket_is_trusted_unless_nobody_is(tmp_path: Path, trusted: tuple[str, ...], believed: bool) -> None:
    path = str(tmp_path / "s")
    with (
        Harness(tell, family=socket.AF_UNIX, path=path, forwarded_allow_ips=trusted) as harness,
        harness.connect() as sock,
    ):
        told = asked(sock, "X-Forwarded-For: 203.0.113.9")
        assert told["client"] == (["203.0.113.9", 0] if believed else None)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_wsgi_app_is_told_the_same(threads: int) -> None:
    with Harness(wsgi_tell, "wsgi", threads=threads) as harness, harness.connect() as sock:
        told = asked(sock, "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.org:444")
        assert (told["wsgi.url_scheme"], told["HTTPS"]) == ("https", "on")
        assert (told["REMOTE_ADDR"], told["REMOTE_PORT"]) == ("192.0.2.1", "0")
        assert (told["SERVER_NAME"], told["SERVER_PORT"], told["HTTP_HOST"]) == ("shop.org", "444", "app.org")
        told = asked(sock)
        assert (told["wsgi.url_scheme"], told["HTTPS"], told["REMOTE_ADDR"]) == ("http", None, "127.0.0.1")


def test_a_wsgi_app_at_a_unix_socket_is_told_the_port_of_the_scheme(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with Harness(wsgi_tell, "wsgi", family=socket.AF_UNIX, path=path) as harness, harness.connect() as sock:
        told = asked(sock, "X-Forwarded-Proto: https")
        assert (told["wsgi.url_scheme"], told["SERVER_NAME"], told["SERVER_PORT"]) == ("https", "localhost", "443")
        told = asked(sock, "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.org:444")
        assert (told["SERVER_NAME"], told["SERVER_PORT"]) == ("shop.org", "444")
        told = asked(sock)
        assert (told["wsgi.url_scheme"], told["SERVER_NAME"], told["SERVER_PORT"]) == ("http", "localhost", "80")


@pytest.mark.parametrize(("asked_for", "rest"), [("/p", "/p"), ("/api/p", "/p"), ("/api", ""), ("/apis", "/apis")])
def test_an_app_below_a_root_path_sees_it_whether_the_proxy_has_taken_it_off_or_not(asked_for: str, rest: str) -> None:
    with Harness(tell, root_path="/api") as harness, harness.connect() as sock:
        told = asked(sock, path=asked_for)
        assert (told["root_path"], told["path"], told["raw_path"]) == ("/api", "/api" + rest, asked_for)
    with Harness(wsgi_tell, "wsgi", root_path="/api") as harness, harness.connect() as sock:
        told = asked(sock, path=asked_for)
        assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == ("/api", rest)


def test_the_asterisk_is_below_no_root() -> None:
    assert mounted("/api", "*") == "*"
