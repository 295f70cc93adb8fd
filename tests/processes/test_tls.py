"""TLS in a real cluster: certificates come in with a roll, bad ones do not, and no client notices either."""

from __future__ import annotations

import hashlib
import http.client
import signal
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from tests.processes.cluster import Cluster, until
from tests.processes.releases import Site

AUTHORITY = trustme.CA()


def certify(folder: Path, authority: trustme.CA = AUTHORITY) -> str:
    """Put a new certificate and key into the folder; returns the certificate's fingerprint."""
    issued = authority.issue_cert("localhost", "127.0.0.1")
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())).hexdigest()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


class Client(threading.Thread):
    """One kept-alive connection, used again and again, and made anew whenever an answer says that it was the last."""

    def __init__(self, bind: str, context: ssl.SSLContext) -> None:
        super().__init__()
        self._bind = bind
        self._context = context
        self._over = threading.Event()
        self.answers = 0
        self.failures: list[str] = []
        self.certificates: list[str] = []  # one entry each time it changes

    def run(self) -> None:
        while not self._over.is_set():
            visitor = http.client.HTTPSConnection(self._bind, timeout=20, context=self._context)
            try:
                self._use(visitor)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            finally:
                visitor.close()

    def _use(self, visitor: http.client.HTTPSConnection) -> None:
        visitor.connect()
        assert isinstance(visitor.sock, ssl.SSLSocket)
        shown = hashlib.sha256(visitor.sock.getpeercert(binary_form=True) or b"").hexdigest()
        if self.certificates[-1:] != [shown]:
            self.certificates.append(shown)
        while not self._over.is_set():
            visitor.request("GET", "/?same")
            answer = visitor.getresponse()
            if (answer.status, answer.read()) != (200, b"same"):
                self.failures.append(f"answered {answer.status}")
            self.answers += 1
            if answer.will_close:
                return

    def __enter__(self) -> Client:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def shown_by(cluster: Cluster) -> str:
    """The fingerprint that a fresh connection is shown."""
    visitor = http.client.HTTPSConnection(cluster.bind, timeout=20, context=trusting())
    visitor.connect()
    assert isinstance(visitor.sock, ssl.SSLSocket)
    try:
        return hashlib.sha256(visitor.sock.getpeercert(binary_form=True) or b"").hexdigest()
    finally:
        visitor.close()


def reload(cluster: Cluster) -> None:
    done = cluster.ctl("reload")
    assert done.returncode == 0, done.stdout + done.stderr


def usr2(cluster: Cluster) -> None:
    assert cluster.roll(signal.SIGUSR2)["verdict"] == "committed"


TLS = ("--certfile", "cert.pem", "--keyfile", "key.pem")


@pytest.mark.parametrize(("preload", "roll"), [("on", reload), ("off", usr2)], ids=["holdfastctl", "USR2"])
def test_a_roll_under_load_brings_the_new_certificate_and_loses_nothing(
    tmp_path: Path, preload: str, roll: Callable[[Cluster], None]
) -> None:
    first = certify(tmp_path)
    with Site(tmp_path).cluster("-w", "2", "--preload", preload, *TLS) as cluster:
        with Client(cluster.bind, trusting()) as one, Client(cluster.bind, trusting()) as other:
            until("both served", lambda: min(one.answers, other.answers) > 20)
            second = certify(tmp_path)
            assert shown_by(cluster) == first
            roll(cluster)
            assert {shown_by(cluster) for _ in range(8)} == {second}
            before = one.answers
            until("served on", lambda: one.answers > before + 20)
        for client in (one, other):
            assert client.failures == []
            assert client.certificates == [first, second]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cert.pem", "rubbish", "certfile cert.pem: no certificate in PEM form"),
        ("key.pem", "", "keyfile key.pem: no private key in PEM form"),
    ],
)
def test_a_bad_certificate_is_rolled_back_with_the_reason(tmp_path: Path, name: str, content: str, said: str) -> None:
    good = certify(tmp_path)
    with Site(tmp_path).cluster("-w", "1", *TLS) as cluster:
        (tmp_path / name).write_text(content)
        done = cluster.ctl("reload")
        assert done.returncode == 1
        assert said in done.stdout + done.stderr
        assert said in cluster.app()["last_roll"]["reason"]
        assert shown_by(cluster) == good
        assert "Traceback" not in cluster.log


def test_a_first_start_without_its_key_ends_with_one_line_and_1(tmp_path: Path) -> None:
    certify(tmp_path)
    (tmp_path / "key.pem").unlink()
    cluster = Site(tmp_path).cluster(*TLS).start()
    try:
        assert cluster.wait_exit() == 1
    finally:
        cluster.kill_everything()
    assert cluster.log.count("keyfile key.pem") == 1
    assert "No such file or directory" in cluster.log
    assert "Traceback" not in cluster.log


def test_files_are_found_from_where_holdfast_was_started_also_when_threads_make_the_spawner_start_over(
    tmp_path: Path,
) -> None:
    good = certify(tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    Site(site).write("first", after="threading.Thread(target=threading.Event().wait, daemon=True).start()")
    with Cluster(tmp_path, "app:app", "-w", "1", "--chdir", "site", *TLS) as cluster:
        assert shown_by(cluster) == good
