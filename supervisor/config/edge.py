"""Options about the edge, where the app's clients and the proxies in front of it come in."""

from __future__ import annotations

from supervisor.config import values
from supervisor.config.option import Option

TLS = "TLS (1.2 and 1.3, on every TCP address)"

PROXIES = "Proxies in front"

EDGE: tuple[Option, ...] = (
    Option(
        key="certfile",
        flags=("--certfile",),
        section="app",
        group=TLS,
        parse=values.parse_path,
        metavar="FILE",
        default="none",
        help="serve TLS, with this certificate and its chain (PEM); a reload reads it again",
    ),
    Option(
        key="keyfile",
        flags=("--keyfile",),
        section="app",
        group=TLS,
        parse=values.parse_path,
        metavar="FILE",
        default="none",
        help="the private key (PEM), if it is not in the certificate's file",
    ),
    Option(
        key="keyfile_password_file",
        flags=("--keyfile-password-file",),
        section="app",
        group=TLS,
        parse=values.parse_path,
        metavar="FILE",
        default="none",
        help="its first and only line opens an encrypted key",
    ),
    Option(
        key="ciphers",
        flags=("--ciphers",),
        section="app",
        group=TLS,
        parse=values.parse_ciphers,
        metavar="LIST",
        default="none",
        help="TLS 1.2 ciphers as OpenSSL lists them; without it, Python's choice; TLS 1.3 has its own",
    ),
    Option(
        key="ca_certs",
        flags=("--ca-certs",),
        section="app",
        group=TLS,
        parse=values.parse_path,
        metavar="FILE",
        default="none",
        help="who may have signed a client's certificate (PEM)",
    ),
    Option(
        key="cert_reqs",
        flags=("--cert-reqs",),
        section="app",
        group=TLS,
        parse=values.one_of("none", "optional", "required"),
        metavar="KIND",
        default="none",
        help="client certificates: none, optional or required; all but none take --ca-certs",
    ),
    Option(
        key="forwarded_allow_ips",
        flags=("--forwarded-allow-ips",),
        section="app",
        group=PROXIES,
        parse=values.parse_peers,
        metavar="IPS",
        default="127.0.0.1,::1",
        help="peers whose X-Forwarded-* and Forwarded are believed: addresses and networks, commas between, or *; "
        "Unix sockets are, unless the list is empty",
    ),
    Option(
        key="proxy_protocol",
        flags=("--proxy-protocol",),
        section="app",
        group=PROXIES,
        parse=values.parse_switch,
        metavar="SWITCH",
        default="off",
        help="on or off: connections of these peers begin with a PROXY header, version 1 or 2",
    ),
    Option(
        key="root_path",
        flags=("--root-path",),
        section="app",
        group=PROXIES,
        parse=values.parse_root_path,
        metavar="PATH",
        default="none",
        help="where a proxy has mounted the app, such as /api: ASGI's root_path, WSGI's SCRIPT_NAME",
    ),
)
