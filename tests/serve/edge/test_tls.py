"""TLS as an app is served with it: good and bad certificates, and connections with OpenSSL on the other side."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from supervisor.config.settings import AppSettings
from supervisor.errors import SurroundingsError
from supervisor.kernel.board import Cell
from supervisor.serve.edge.tls import Tls, load_tls, name_of
from supervisor.serve.limits import Limits
from tests.serve.harness import Harness, echo, eventually, http, read_all, read_until, wsgi_echo

REQUEST = b"GET /p HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Papers:
    """A certificate authority, what it has signed, and the files to serve with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.server = self.authority.issue_cert("localhost", "127.0.0.1")
        self.write("cert.pem", b"".join(blob.bytes() for blob in self.server.cert_chain_pems))
        self.write("key.pem", self.server.private_key_pem.bytes())
        self.write("both.pem", self.server.private_key_and_cert_chain_pem.bytes())
        self.write("ca.pem", self.authority.cert_pem.bytes())

    def write(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return self.path(name)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def settings(self, **more: Any) -> AppSettings:
        files = {"certfile": self.path("cert.pem"), "keyfile": self.path("key.pem")}
        return AppSettings(name="web", app="m:app", **(files | more))

    def load(self, **more: Any) -> Tls:
        tls = load_tls(self.settings(**more))
        assert tls is not None
        return tls

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@contextlib.contextmanager
def served(papers: Papers, app: object = echo, tls: dict[str, Any] | None = None, **more: Any) -> Iterator[Harness]:
    """A service that speaks TLS."""
    with Harness(app, **more) as harness:
        loaded = papers.load(**(tls or {}))
        harness.call(lambda: harness.service.use_tls(loaded))
        yield harness


@contextlib.contextmanager
def dialled(harness: Harness, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with harness.connect() as sock, context.wrap_socket(sock, server_hostname="localhost") as secure:
        yield secure


# Files


def test_without_a_certificate_there_is_no_tls() -> None:
    assert load_tls(AppSettings(name="web", app="m:app")) is None


def test_key_and_certificate_may_share_a_file(papers: Papers) -> None:
    tls = papers.load(certfile=papers.path("both.pem"), keyfile=None)
    assert tls.certificate.encode() == papers.server.cert_chain_pems[0].bytes()


def test_nothing_older_than_1_2_is_spoken(papers: Papers) -> None:
    assert papers.load().context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.fixture
def encrypted(papers: Papers) -> str:
    key = serialization.load_pem_private_key(papers.server.private_key_pem.bytes(), None)
    kind = serialization.PrivateFormat.TraditionalOpenSSL
    lock = serialization.BestAvailableEncryption(b"sesame")
    return papers.write("locked.pem", key.private_bytes(serialization.Encoding.PEM, kind, lock))


def test_an_encrypted_key_is_opened_with_the_password_of_a_file(papers: Papers, encrypted: str) -> None:
    papers.load(keyfile=encrypted, keyfile_password_file=papers.write("password", b"sesame\n"))


def test_an_encrypted_key_without_its_password_is_told_so(papers: Papers, encrypted: str) -> None:
    with pytest.raises(SurroundingsError, match=r"locked\.pem: it is encrypted; set keyfile_password_file"):
        papers.load(keyfile=encrypted)
    with pytest.raises(SurroundingsError, match=r"locked\.pem: the password in .*/wrong does not open it"):
        papers.load(keyfile=encrypted, keyfile_password_file=papers.write("wrong", b"open\n"))


Make = Callable[[Papers], dict[str, Any]]
WRONG: list[tuple[str, Make, str]] = [
    ("no certificate", lambda p: {"certfile": p.path("missing")}, r"certfile /.*/missing: No such file"),
    ("no key", lambda p: {"keyfile": p.path("missing")}, r"keyfile /.*/missing: No such file"),
    ("a directory", lambda p: {"certfile": str(p.folder)}, "certfile .*: Is a directory"),
    ("rubbish", lambda p: {"certfile": p.write("r", b"\xff\x00")}, "certfile .*/r: no certificate in PEM form"),
    ("key alone", lambda p: {"certfile": p.path("key.pem")}, r"certfile .*/key\.pem: no certificate in PEM form"),
    ("certificate alone", lambda p: {"keyfile": None}, r"keyfile .*/cert\.pem: no private key .* keyfile names where"),
    (
        "another's key",
        lambda p: {"keyfile": p.write("other.pem", p.authority.issue_cert("x.org").private_key_pem.bytes())},
        r"keyfile .*/other\.pem is not the key of certfile .*/cert\.pem",
    ),
    (
        "a broken certificate",
        lambda p: {"certfile": p.write("b", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")},
        "certfile .*/b, keyfile .*: OpenSSL can't use them",
    ),
    ("unknown ciphers", lambda _: {"ciphers": "ROT13"}, "ciphers ROT13: this OpenSSL knows none of them"),
    ("no CA file", lambda p: {"ca_certs": p.path("missing")}, "ca_certs /.*/missing: No such file"),
    ("CA rubbish", lambda p: {"ca_certs": p.write("r", b"x")}, "ca_certs .*/r: no certificates in PEM form"),
]


@pytest.mark.parametrize(("make", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_file_that_does_not_serve_is_one_line_that_names_setting_and_file(
    papers: Papers, make: Make, said: str
) -> None:
    with pytest.raises(SurroundingsError, match=f"^{said}") as caught:
        papers.load(**make(papers))
    assert "\n" not in str(caught.value)


def test_a_subject_is_written_as_rfc_4514_has_it() -> None:
    subject = ((("countryName", "AT"),), (("organizationName", "Acme, Inc."),), (("commonName", " #1"), ("x", "y")))
    assert name_of({"subject": subject}) == "CN=\\ #1+x=y,O=Acme\\, Inc.,C=AT"


# Connections


def test_requests_are_answered_over_tls_and_the_connection_is_kept(papers: Papers) -> None:
    with served(papers) as harness, dialled(harness, papers.client()) as client:
        for _ in range(3):
            client.sendall(REQUEST)
            assert read_until(client, b"GET /p ").startswith(b"HTTP/1.1 200 OK\r\n")
        assert harness.service.connections == 1


async def tell(scope: dict[str, Any], receive: Any, send: Any) -> None:
    del scope["extensions"]["holdfast"]
    told = {key: scope[key] for key in ("scheme", "client", "server", "extensions")}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


def told_to(harness: Harness, context: ssl.SSLContext) -> tuple[Any, Any]:
    with dialled(harness, context) as client:
        client.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        client.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        return json.loads(read_all(client).partition(b"\r\n\r\n")[2]), client.cipher()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_asgi_app_is_told_of_tls_as_the_extension_says(papers: Papers, version: ssl.TLSVersion) -> None:
    context = papers.client()
    context.maximum_version = version
    with served(papers, tell) as harness:
        told, cipher = told_to(harness, context)
    tls = told["extensions"]["tls"]
    assert told["scheme"] == "https"
    assert told["client"][0] == told["server"][0] == "127.0.0.1"
    assert tls["server_cert"].encode() == papers.server.cert_chain_pems[0].bytes()
    assert (tls["client_cert_chain"], tls["client_cert_name"], tls["client_cert_error"]) == ([], None, None)
    assert tls["tls_version"] == version.value
    known = {each["name"]: each["id"] & 0xFFFF for each in context.get_ciphers()}
    assert tls["cipher_suite"] == known[cipher[0]]


def wsgi_tell(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    names = ("wsgi.url_scheme", "HTTPS", "SSL_PROTOCOL", "SSL_CLIENT_VERIFY", "SSL_CLIENT_S_DN", "SSL_CLIENT_CERT")
    return [json.dumps({name: environ.get(name) for name in names}).encode()]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_wsgi_app_is_told_of_tls_and_of_the_clients_certificate(papers: Papers, threads: int) -> None:
    context = papers.client()
    ada = papers.authority.issue_cert("ada@example.org", common_name="ada")
    ada.configure_cert(context)
    required = {"ca_certs": papers.path("ca.pem"), "cert_reqs": "required"}
    with served(papers, wsgi_tell, required, interface="wsgi", threads=threads) as harness:
        told, _ = told_to(harness, context)
    assert (told["wsgi.url_scheme"], told["HTTPS"], told["SSL_PROTOCOL"]) == ("https", "on", "TLSv1.3")
    assert told["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert told["SSL_CLIENT_S_DN"].startswith("CN=ada,")
    assert told["SSL_CLIENT_CERT"].encode() == ada.cert_chain_pems[0].bytes()


@pytest.mark.parametrize(("reqs", "admitted"), [("optional", True), ("required", False)])
def test_a_client_without_a_certificate_is_admitted_only_where_it_is_optional(
    papers: Papers, reqs: str, admitted: bool
) -> None:
    with served(papers, tell, {"ca_certs": papers.path("ca.pem"), "cert_reqs": reqs}) as harness:
        if admitted:
            told, _ = told_to(harness, papers.client())
            assert told["extensions"]["tls"]["client_cert_chain"] == []
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                told_to(harness, papers.client())
        eventually(lambda: harness.service.connections == 0)


def test_a_clients_certificate_of_a_stranger_ends_the_handshake(papers: Papers) -> None:
    context = papers.client()
    trustme.CA().issue_cert("eve@example.org").configure_cert(context)
    with served(papers, tell, {"ca_certs": papers.path("ca.pem"), "cert_reqs": "optional"}) as harness:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            told_to(harness, context)
        eventually(lambda: harness.service.connections == 0)
        assert harness.cell(Cell.BAD_REQUESTS) == harness.cell(Cell.TLS) == 1


def test_the_one_protocol_agreed_on_is_http_1_1(papers: Papers) -> None:
    context = papers.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with served(papers) as harness, dialled(harness, context) as client:
        assert client.selected_alpn_protocol() == "http/1.1"


def test_a_session_is_resumed(papers: Papers) -> None:
    context = papers.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # its tickets come within the handshake
    with served(papers) as harness:
        with dialled(harness, context) as client:
            session = client.session
        with harness.connect() as sock, context.wrap_socket(sock, server_hostname="localhost", session=session) as back:
            assert back.session_reused


def test_a_unix_socket_stays_plain(papers: Papers, tmp_path: Path) -> None:
    with served(papers, tell, family=socket.AF_UNIX, path=str(tmp_path / "s")) as harness:
        body = harness.ask(REQUEST).partition(b"\r\n\r\n")[2]
        assert json.loads(body)["scheme"] == "http"


def test_the_end_is_announced_by_close_notify_behind_the_whole_answer(papers: Papers) -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x" * 50_000, "more_body": True})
        await send({"type": "http.response.body"})

    with served(papers, stream) as harness, dialled(harness, papers.client()) as client:
        client.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # an end without close_notify raises
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert len(read_all(client).partition(b"\r\n\r\n")[2]) == 5_000_000


def test_a_large_upload_and_a_slow_reader_keep_every_byte(papers: Papers) -> None:
    body = bytes(range(256)) * 8192
    head = b"POST /p HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    with served(papers) as harness, dialled(harness, papers.client()) as client:
        client.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        client.sendall(head + body)
        answer = read_all(client)
    assert answer.partition(b"\r\n\r\n")[2] == b"POST /p " + body


@pytest.mark.parametrize("size", [5, 8 << 20])
def test_a_file_is_sent_over_tls_and_the_connection_is_kept(papers: Papers, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.pathsend", "path": str(path)})

    with served(papers, app) as harness, dialled(harness, papers.client()) as client:
        for _ in range(2):
            client.sendall(REQUEST)
            head, _, body = read_until(client, b"\r\n\r\n").partition(b"\r\n\r\n")
            assert b"content-length: %d" % size in head
            while len(body) < size:
                body += client.recv(65536)
            assert body == path.read_bytes()


def test_a_refused_upload_still_gets_its_answer(papers: Papers) -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"too large"})

    head = b"POST /p HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n"
    with served(papers, refuse) as harness, dialled(harness, papers.client()) as client:
        client.sendall(head + b"x" * 200_000)
        assert read_until(client, b"too large").startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("said", [REQUEST, b"\x16\x03\x01\x00\x05hello", b"\x00" * 600, b"PRI * HTTP/2.0\r\n\r\nSM"])
def test_what_is_not_tls_ends_quietly_and_is_counted(
    papers: Papers, said: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(papers) as harness:
        with harness.connect() as sock, contextlib.suppress(ConnectionError):
            sock.sendall(said)
            assert b"HTTP/1.1 200" not in read_all(sock)
        eventually(lambda: harness.service.connections == 0)
        assert harness.cell(Cell.BAD_REQUESTS) == harness.cell(Cell.TLS) == 1
    assert capfd.readouterr().err == ""


def test_a_handshake_that_takes_too_long_is_given_up(papers: Papers) -> None:
    with served(papers, limits=Limits(tls_handshake=0.2)) as harness, harness.connect() as sock:
        sock.sendall(b"\x16\x03\x01")
        with contextlib.suppress(ConnectionError):
            assert sock.recv(100) == b""
        eventually(lambda: harness.service.connections == 0)
        assert harness.cell(Cell.TLS) == 1


def test_a_client_that_goes_in_the_handshake_leaves_nothing(papers: Papers) -> None:
    with served(papers) as harness:
        with harness.connect() as sock:
            sock.sendall(b"\x16\x03\x01")
            eventually(lambda: harness.service.connections == 1)
        eventually(lambda: harness.service.connections == 0)
        assert harness.cell(Cell.TLS) == 0


def test_tls_on_a_plain_port_is_told_so_in_plain_text() -> None:
    outgoing = ssl.MemoryBIO()
    hello = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    with Harness(echo) as harness:
        answer = harness.ask(outgoing.read())
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"this is TLS, and the port is for plain HTTP\n")


# The end of the worker


def test_a_draining_service_ends_idle_connections_and_handshakes_and_finishes_answers(papers: Papers) -> None:
    release = threading.Event()

    def slow(environ: Any, start_response: Any) -> list[bytes]:
        release.wait(10)
        return wsgi_echo(environ, start_response)

    with served(papers, slow, interface="wsgi") as harness:
        context = papers.client()
        with dialled(harness, context) as busy, dialled(harness, context) as idle, harness.connect() as silent:
            silent.sendall(b"\x16\x03\x01")
            busy.sendall(REQUEST)
            eventually(lambda: harness.service.inflight == 1 and harness.service.connections == 3)
            harness.call(lambda: harness.service.drain(0.0))
            assert idle.recv(100) == b""
            with contextlib.suppress(ConnectionError):
                assert silent.recv(100) == b""
            assert harness.empties == 0
            release.set()
            answer = read_all(busy)
            assert b"connection: close\r\n" in answer
            assert answer.endswith(b"GET /p ")
            busy.unwrap()
            idle.unwrap()
        eventually(lambda: harness.empties == 1)


def test_a_client_that_never_says_close_notify_does_not_hold_up_the_end(papers: Papers) -> None:
    with served(papers, limits=Limits(closing=0.2)) as harness, dialled(harness, papers.client()) as client:
        eventually(lambda: harness.service.connections == 1)
        harness.call(lambda: harness.service.drain(0.0))
        eventually(lambda: harness.empties == 1)
        assert client.recv(1) == b""


def test_cutting_reaches_handshakes_and_answers(papers: Papers) -> None:
    with served(papers) as harness, harness.connect() as silent, dialled(harness, papers.client()):
        silent.sendall(b"\x16\x03\x01")
        eventually(lambda: harness.service.connections == 2)
        harness.call(lambda: harness.service.drain(None))
        harness.call(harness.service.cut)
        eventually(lambda: harness.empties == 1)


@pytest.mark.parametrize("how", ["last", "kept", "streamed", "drained"])
def test_a_client_that_reads_slowly_and_steadily_gets_all_of_its_answer(papers: Papers, how: str) -> None:
    size = 4 << 20

    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        pieces = 2 if how == "streamed" else 1
        for left in reversed(range(pieces)):
            await send({"type": "http.response.body", "body": bytes(size // pieces), "more_body": left > 0})

    limits = Limits(write_idle=0.6, keepalive=0.3, closing=0.3)
    request = REQUEST if how == "kept" else REQUEST.replace(b"Host", b"Connection: close\r\nHost")
    with served(papers, http(app), limits=limits) as harness, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.settimeout(10)
        sock.connect(harness.address)
        with papers.client().wrap_socket(sock, server_hostname="localhost") as client:
            client.sendall(request)
            got = len(read_until(client, b"\r\n\r\n").partition(b"\r\n\r\n")[2])
            if how == "drained":
                harness.call(lambda: harness.service.drain(0.1))
            began = time.monotonic()
            while got < size and (piece := client.recv(16384)):
                got += len(piece)
                threading.Event().wait(max(0.0, began + 2.5 * got / size - time.monotonic()))
            assert got == size
        eventually(lambda: harness.service.connections == 0)
        assert harness.cell(Cell.FINISHED) == harness.cell(Cell.STARTED) == 1
        assert harness.cell(Cell.SEND_TIMEOUT) == 0


def test_a_client_that_takes_nothing_more_of_a_last_answer_is_given_up(papers: Papers) -> None:
    async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(32 << 20)})

    limits = Limits(write_idle=0.5, closing=0.2)
    with served(papers, http(app), limits=limits) as harness, dialled(harness, papers.client()) as client:
        client.sendall(REQUEST)
        client.recv(1)
        eventually(lambda: harness.service.connections == 0, timeout=10)
        assert harness.cell(Cell.SEND_TIMEOUT) == 1
