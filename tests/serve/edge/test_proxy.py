"""The PROXY protocol: headers right and wrong, however they are cut, and what they change."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.kernel.board import Cell
from supervisor.serve.edge.proxy import MAX_V1, MAX_V2, SIGNATURE, ProxyError, Told, measure, parse
from supervisor.serve.limits import Limits
from tests.serve.edge.test_tls import Papers, dialled, papers
from tests.serve.harness import Harness, eventually, read_all, read_until

__all__ = ["papers"]

LINE = b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n"
REQUEST = b"GET /p HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def v2(command: int = 0x21, family: int = 0x11, block: bytes | None = None, extensions: bytes = b"") -> bytes:
    if block is None:
        block = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 4711, 443)
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(block + extensions)) + block + extensions


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + struct.pack("!H", len(value)) + value


SIX = ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("2001:db8::2").packed + struct.pack("!HH", 1, 2)
MAPPED = b"\0" * 10 + b"\xff" * 2 + bytes([192, 0, 2, 1])
UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")
BOTH = Told(("192.0.2.1", 4711), ("192.0.2.2", 443))
RIGHT = [
    (LINE, BOTH),
    (b"PROXY TCP6 2001:DB8::1 2001:db8::2 1 0\r\n", Told(("2001:db8::1", 1), ("2001:db8::2", 0))),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::FFFF:c000:202 4711 443\r\n", BOTH),
    (b"PROXY UNKNOWN\r\n", Told()),
    (b"PROXY UNKNOWN ffff:f...f:ffff 65535 x\r\n", Told()),
    (v2(), BOTH),
    (v2(family=0x21, block=SIX), Told(("2001:db8::1", 1), ("2001:db8::2", 2))),
    (v2(family=0x21, block=MAPPED + SIX[16:]), Told(("192.0.2.1", 1), ("2001:db8::2", 2))),
    (v2(family=0x31, block=UNIX), Told(None, ("/run/b", None), is_unix=True)),
    (v2(command=0x20), Told()),
    (v2(command=0x20, family=0, block=b""), Told()),
    (v2(family=0, block=b"whatever"), Told()),
    (v2(extensions=tlv(4, b"\0" * 3)), BOTH),
    (v2(extensions=tlv(1, b"h2") + tlv(0x20, b"\x01\0\0\0\0")), BOTH._replace(secure=True)),
    (v2(extensions=tlv(0x20, b"\0\0\0\0\0")), BOTH),
]


@pytest.mark.parametrize(("header", "told"), RIGHT)
def test_a_header_is_measured_and_understood_whatever_follows(header: bytes, told: Told) -> None:
    assert measure(header) == measure(header + REQUEST) == len(header)
    assert parse(header) == told


@pytest.mark.parametrize("header", [header for header, _ in RIGHT])
def test_of_an_unfinished_header_every_byte_is_claimed_and_more_is_asked_for(header: bytes) -> None:
    for end in range(1, len(header)):
        assert end < measure(header[:end]) <= len(header)


@pytest.mark.parametrize(
    "data",
    [
        REQUEST,
        b"PROXY" + REQUEST,
        b"POST / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"\r\n\r\n" + REQUEST,
        b"PROXY " + b"x" * MAX_V1,
        v2(extensions=b"\0" * MAX_V2),
        b"\n",
    ],
)
def test_what_begins_otherwise_or_is_too_long_is_no_header(data: bytes) -> None:
    with pytest.raises(ProxyError):
        measure(data)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY \r\n",
        LINE.replace(b"\r", b""),
        LINE.replace(b"\r", b" \r"),
        LINE.replace(b"TCP4", b"TCP6"),
        LINE.replace(b"192.0.2.1", b"::ffff:192.0.2.1"),
        LINE.replace(b"TCP4", b"TCP6").replace(b"192.0.2.2", b"::ffff:192.0.2.2"),
        LINE.replace(b"TCP4", b"tcp4"),
        LINE.replace(b"TCP4", b"TCP4 "),
        LINE.replace(b"4711", b"65536"),
        LINE.replace(b"4711", b"04711"),
        LINE.replace(b"4711", b"-1"),
        LINE.replace(b"192.0.2.1", b"192.0.2"),
        LINE.replace(b"192.0.2.1", b"192.0.02.1"),
        LINE.replace(b" 443", b""),
        v2(command=0x11),
        v2(command=0x22),
        v2(family=0x12),
        v2(family=0x41),
        v2(family=0x10),
        v2(family=0x01),
        v2(block=b"\0" * 11),
        v2(family=0x21),
        v2(extensions=b"\x04"),
        v2(extensions=b"\x04\0\x05abcd"),
        v2(extensions=tlv(0x20, b"\x01")),
    ],
)
def test_a_malformed_header_is_refused(header: bytes) -> None:
    assert measure(header) == len(header)
    with pytest.raises(ProxyError):
        parse(header)


@given(st.binary(max_size=300), st.sampled_from([b"", SIGNATURE, SIGNATURE + b"\x21\x11", b"PROXY ", b"PROXY TCP4 "]))
def test_any_bytes_are_a_header_or_refused(data: bytes, start: bytes) -> None:
    data = (start + data) or b"x"
    try:
        length = measure(data)
        assert 0 < length <= max(MAX_V2, len(data) + 1)
        if length <= len(data):
            parse(data[:length])
    except ProxyError:
        return


ADDRESSES = st.one_of(
    st.tuples(st.just(4), st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.just(6), st.ip_addresses(v=6), st.ip_addresses(v=6)),
)
PORT = st.integers(0, 65535)


@given(ADDRESSES, PORT, PORT)
@example((6, ipaddress.ip_address("::ffff:192.0.2.1"), ipaddress.ip_address("::192.0.2.1")), 1, 2)
def test_both_versions_say_the_same(pair: tuple[int, Any, Any], source_port: int, destination_port: int) -> None:
    version, source, destination = pair
    line = f"PROXY TCP{version} {source} {destination} {source_port} {destination_port}\r\n".encode()
    block = source.packed + destination.packed + struct.pack("!HH", source_port, destination_port)
    unmapped = [str((version == 6 and address.ipv4_mapped) or address) for address in (source, destination)]
    told = Told((unmapped[0], source_port), (unmapped[1], destination_port))
    assert parse(v2(family=0x11 if version == 4 else 0x21, block=block)) == parse(line) == told


# Over the wire


async def tell(scope: dict[str, Any], receive: Any, send: Any) -> None:
    told = {key: scope[key] for key in ("scheme", "client", "server")}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


def gated(**more: Any) -> Harness:
    return Harness(tell, proxy_protocol=True, **more)


def told_by(answer: bytes) -> Any:
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("header", [LINE, v2()])
def test_the_client_is_the_one_that_the_header_names(header: bytes) -> None:
    with gated() as harness:
        told = told_by(harness.ask(header + REQUEST))
    assert told == {"scheme": "http", "client": ["192.0.2.1", 4711], "server": ["192.0.2.2", 443]}


def test_a_header_may_come_byte_by_byte() -> None:
    with gated() as harness:
        for header in (LINE, v2()):
            with harness.connect() as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for byte in header:
                    sock.send(bytes([byte]))
                sock.sendall(REQUEST)
                assert told_by(read_all(sock))["client"] == ["192.0.2.1", 4711]


def test_a_balancers_own_connection_keeps_its_addresses() -> None:
    with gated() as harness, harness.connect() as sock:
        sock.sendall(v2(command=0x20, family=0, block=b"") + REQUEST)
        assert told_by(read_all(sock))["client"] == list(sock.getsockname())


def test_a_client_that_came_over_tls_has_https() -> None:
    with gated() as harness:
        assert told_by(harness.ask(v2(extensions=tlv(0x20, b"\x01\0\0\0\0")) + REQUEST))["scheme"] == "https"


def test_forwarded_fields_count_only_when_the_client_of_the_header_is_trusted_too() -> None:
    fields = REQUEST.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
    with gated() as harness:
        assert told_by(harness.ask(LINE + fields))["client"] == ["192.0.2.1", 4711]
        local = LINE.replace(b"192.0.2.1", b"127.0.0.1")
        assert told_by(harness.ask(local + fields))["client"] == ["203.0.113.9", 0]


NAMELESS = [b"PROXY UNKNOWN\r\n", v2(command=0x20), v2(command=0x20, family=0, block=b""), v2(family=0, block=b"")]


@pytest.mark.parametrize("header", NAMELESS)
def test_where_a_header_names_nobody_no_field_is_believed(header: bytes) -> None:
    lines = b"\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.org\r\n\r\n"
    with gated() as harness, harness.connect() as sock:
        sock.sendall(header + REQUEST.replace(b"\r\n\r\n", lines))
        own = {"scheme": "http", "client": list(sock.getsockname()), "server": list(sock.getpeername())}
        assert told_by(read_all(sock)) == own


@pytest.mark.parametrize("header", [*NAMELESS, v2(family=0x31, block=UNIX)])
def test_nor_over_a_unix_socket(tmp_path: Path, header: bytes) -> None:
    fields = REQUEST.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
    with gated(family=socket.AF_UNIX, path=str(tmp_path / "s")) as harness:
        assert told_by(harness.ask(header + fields))["client"] is None


def test_the_client_of_a_unix_socket_has_no_address_that_is_trusted() -> None:
    fields = REQUEST.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
    with gated() as harness:
        assert told_by(harness.ask(v2(family=0x31, block=UNIX) + fields))["client"] is None


def test_tls_begins_behind_the_header(papers: Papers) -> None:
    with gated() as harness:
        loaded = papers.load()
        harness.call(lambda: harness.service.use_tls(loaded))
        context = papers.client()
        with harness.connect() as sock:
            sock.sendall(LINE)
            with context.wrap_socket(sock, server_hostname="localhost") as client:
                client.sendall(REQUEST)
                told = told_by(read_all(client))
        with pytest.raises(OSError), dialled(harness, context):  # noqa: PT011  # how it ends is the kernel's choice
            pass
    assert (told["scheme"], told["client"]) == ("https", ["192.0.2.1", 4711])


def test_a_unix_socket_is_a_trusted_peer_too(tmp_path: Path) -> None:
    with gated(family=socket.AF_UNIX, path=str(tmp_path / "s")) as harness:
        assert told_by(harness.ask(LINE + REQUEST))["client"] == ["192.0.2.1", 4711]
        fields = REQUEST.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
        local = LINE.replace(b"192.0.2.1", b"127.0.0.1")
        assert told_by(harness.ask(local + fields))["client"] == ["203.0.113.9", 0]


def test_a_peer_that_is_not_trusted_has_no_header_and_can_send_none() -> None:
    with gated(forwarded_allow_ips=("192.0.2.0/24",)) as harness, harness.connect() as sock:
        sock.sendall(REQUEST)
        assert told_by(read_all(sock))["client"] == list(sock.getsockname())
        assert harness.ask(LINE + REQUEST).startswith(b"HTTP/1.1 400 ")


def test_without_a_header_a_trusted_connection_is_closed_and_counted_and_told_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with gated() as harness:
        for data in (REQUEST, b"PROXY nonsense\r\n" + REQUEST, b"\0" * 100):
            with contextlib.suppress(OSError):  # a reset may come first
                assert harness.ask(data) == b""
        eventually(lambda: harness.cell(Cell.BAD_REQUESTS) == 3)
        assert told_by(harness.ask(LINE + REQUEST))
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "proxy_protocol is on, and a connection was closed: it does not begin with a PROXY header" in said


@pytest.mark.parametrize("data", [b"", b"PROXY TCP4 192", SIGNATURE])
def test_a_header_that_does_not_come_is_not_waited_for(data: bytes) -> None:
    with gated(limits=Limits(proxy_header=0.1)) as harness, harness.connect() as sock:
        sock.sendall(data)
        assert sock.recv(1) == b""
        assert harness.cell(Cell.BAD_REQUESTS) == 1


def test_a_client_that_goes_before_its_header_is_nobodys_fault(capfd: pytest.CaptureFixture[str]) -> None:
    with gated() as harness:
        with harness.connect() as sock:
            sock.sendall(b"PROXY ")
        assert told_by(harness.ask(LINE + REQUEST))
        assert harness.cell(Cell.BAD_REQUESTS) == 0
    assert capfd.readouterr().err == ""


def test_a_leaving_worker_waits_for_headers_as_long_as_for_idle_connections() -> None:
    with gated() as harness, harness.connect() as late, harness.connect() as never:
        late.sendall(b"PROXY ")
        never.sendall(b"PROXY ")
        with harness.connect() as sock:  # when this one is served, the others are waiting
            sock.sendall(LINE + REQUEST)
            read_until(sock, b"}")
        harness.call(lambda: harness.service.drain(0.5))
        late.sendall(LINE[6:] + REQUEST)
        assert told_by(read_all(late))
        assert harness.empties == 0
        assert never.recv(1) == b""
        eventually(lambda: harness.empties == 1)
