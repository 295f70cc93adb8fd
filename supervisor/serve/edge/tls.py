"""What TLS an app is served with: the context made from its settings, and what an app is told about a connection.

Invariants. Certificate and key are read once, in the spawner, before any worker is forked: a release has one
certificate for its whole life, its workers share the keys of their session tickets, and what is wrong with a file is a
failed release. Nothing older than TLS 1.2 is spoken, no renegotiation, and no protocol but HTTP/1.1 is agreed on.

Sources: RFC 8446, RFC 7301 (ALPN), RFC 4514 (names as text), the ASGI TLS extension 0.2.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from typing import Any, NamedTuple

from supervisor.config.settings import AppSettings
from supervisor.errors import SurroundingsError

VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}  # RFC 8446 section 4.2.1

_MAX_PASSWORD = 1024
_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SHORT_NAMES = {  # RFC 4514 section 3
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
_ESCAPED = re.compile(r'(?:^[ #])|(?: $)|["+,;<>\\]')  # RFC 4514 section 2.4


@dataclass(frozen=True, slots=True)
class Tls:
    """A context, and what is said about all its connections: its certificate (PEM), and each cipher's number."""

    context: ssl.SSLContext
    certificate: str
    ciphers: dict[str, int]


class Agreed(NamedTuple):
    """A connection's TLS, as the ASGI extension names it and as Apache's mod_ssl has named it for CGI and WSGI."""

    extension: dict[str, Any]
    environ: dict[str, str]


def load_tls(settings: AppSettings) -> Tls | None:
    """What the settings ask for; None for plain HTTP.

    Paths are taken from the working directory. Raises `SurroundingsError` for files that can't be read or don't fit.
    """
    if settings.certfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    certificate = _load_pair(context, settings, settings.certfile)
    if settings.ciphers is not None:
        try:
            context.set_ciphers(settings.ciphers)
        except ssl.SSLError:
            raise SurroundingsError(f"ciphers {settings.ciphers}: this OpenSSL knows none of them") from None
    if settings.ca_certs is not None:
        _read("ca_certs", settings.ca_certs)
        try:
            context.load_verify_locations(settings.ca_certs)
        except ssl.SSLError:
            raise SurroundingsError(f"ca_certs {settings.ca_certs}: no certificates in PEM form") from None
    context.verify_mode = VERIFY[settings.cert_reqs]
    ciphers = {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}
    return Tls(context, certificate, ciphers)


def _load_pair(context: ssl.SSLContext, settings: AppSettings, certfile: str) -> str:
    """Load certificate and key; returns the certificate alone."""
    found = _PEM.search(_read("certfile", certfile))
    if found is None:
        raise SurroundingsError(f"certfile {certfile}: no certificate in PEM form")
    keyfile = settings.keyfile or certfile
    if "PRIVATE KEY-----" not in _read("keyfile", keyfile):
        hint = "" if settings.keyfile else "; keyfile names where it is"
        raise SurroundingsError(f"keyfile {keyfile}: no private key in PEM form{hint}")
    asked = False

    def password() -> str:
        nonlocal asked
        asked = True
        path = settings.keyfile_password_file
        return _read("keyfile_password_file", path).rstrip("\r\n")[:_MAX_PASSWORD] if path is not None else ""

    try:
        context.load_cert_chain(certfile, keyfile, password)
    except ssl.SSLError as error:
        if "KEY_VALUES_MISMATCH" in str(error):
            raise SurroundingsError(f"keyfile {keyfile} is not the key of certfile {certfile}") from None
        if asked:
            given = settings.keyfile_password_file
            why = f"the password in {given} does not open it" if given else "it is encrypted; set keyfile_password_file"
            raise SurroundingsError(f"keyfile {keyfile}: {why}") from None
        reason = f": {error.reason}" if error.reason else ""
        raise SurroundingsError(f"certfile {certfile}, keyfile {keyfile}: OpenSSL can't use them{reason}") from None
    return found[0] + "\n"


def _read(setting: str, path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode("latin-1")
    except OSError as error:
        where = "" if os.path.isabs(path) else f" (in {os.getcwd()})"
        raise SurroundingsError(f"{setting} {path}{where}: {error.strerror}") from None


def describe(tls: Tls, connected: ssl.SSLObject) -> Agreed:
    """What apps are told about a connection whose handshake is done."""
    version = connected.version() or ""
    cipher, *_ = connected.cipher() or ("", "", 0)
    der = connected.getpeercert(binary_form=True)
    chain = [] if der is None else [ssl.DER_cert_to_PEM_cert(der)]
    name = None if der is None else name_of(connected.getpeercert() or {})
    extension = {
        "server_cert": tls.certificate,
        "client_cert_chain": chain,
        "client_cert_name": name,
        "client_cert_error": None,  # a certificate that doesn't verify ends the handshake
        "tls_version": VERSIONS.get(version),
        "cipher_suite": tls.ciphers.get(cipher),
    }
    environ = {"SSL_PROTOCOL": version, "SSL_CIPHER": cipher, "SSL_CLIENT_VERIFY": "SUCCESS" if chain else "NONE"}
    if name is not None:
        environ |= {"SSL_CLIENT_CERT": chain[0], "SSL_CLIENT_S_DN": name}
    return Agreed(extension, environ)


def name_of(certificate: dict[str, Any]) -> str:
    """The subject of what `getpeercert` gives, as RFC 4514 writes it: `CN=ada,O=Analytical Engines`."""
    names = []
    for relative in reversed(certificate.get("subject", ())):
        parts = [f"{_SHORT_NAMES.get(kind, kind)}={_ESCAPED.sub(_escaped, value)}" for kind, value in relative]
        names.append("+".join(parts))
    return ",".join(names).replace("\0", "\\00")


def _escaped(match: re.Match[str]) -> str:
    return "\\" + match[0]
