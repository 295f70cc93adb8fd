"""Where a server listens, as people write it and as a frozen record.

Invariant: `str(parse_address(text))` is the canonical spelling of `text`, and parsing that gives an equal record, so
two spellings of one address compare equal. Nothing here resolves a name or opens anything.
"""

from __future__ import annotations

import re
import socket

from msgspec import Struct

MAX_UNIX_PATH = 107  # bytes; sun_path holds 108 with the closing NUL, unix(7)
MAX_FD = 2**31 - 1
EXPECTED = "host:port, [v6]:port, unix:PATH, fd://N or systemd:NAME"

_TCP = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^\[\]]*)):(?P<port>[0-9]{1,5})", re.ASCII)
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?", re.ASCII)
_NUMERIC = re.compile(r"[0-9.]+", re.ASCII)  # no host name has a last label of digits only, RFC 3696 section 2
_SYSTEMD_NAME = re.compile(r"[!-9;-~]{1,255}")  # FileDescriptorName=: printable ASCII but for ':', systemd.socket(5)


class Tcp(Struct, frozen=True):
    """A host name or IP address (v6 without its brackets) and a port; port 0 lets the kernel choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Unix(Struct, frozen=True):
    """A Unix stream socket at a path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class Fd(Struct, frozen=True):
    """A listening socket inherited as this descriptor."""

    number: int

    def __str__(self) -> str:
        return f"fd://{self.number}"


class Systemd(Struct, frozen=True):
    """A listening socket passed by systemd under this `FileDescriptorName=`, sd_listen_fds_with_names(3)."""

    name: str

    def __str__(self) -> str:
        return f"systemd:{self.name}"


Address = Tcp | Unix | Fd | Systemd


def parse_address(text: str) -> Address:
    """Read one address. Raises `ValueError` that says what was expected."""
    if text.startswith("unix:"):
        return Unix(_unix_path(text.removeprefix("unix:")))
    if text.startswith("fd://"):
        return Fd(_fd_number(text.removeprefix("fd://")))
    if text.startswith("systemd:"):
        name = text.removeprefix("systemd:")
        if not _SYSTEMD_NAME.fullmatch(name):
            raise ValueError(f"systemd:NAME with the FileDescriptorName= of the socket unit, not {text!r}")
        return Systemd(name)
    return _tcp(text)


def _unix_path(path: str) -> str:
    size = len(path.encode("utf-8", "surrogateescape"))
    if not path or "\0" in path or size > MAX_UNIX_PATH:
        raise ValueError(f"unix:PATH with a path of 1 to {MAX_UNIX_PATH} bytes, not {'unix:' + path!r}")
    return path


def _fd_number(digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10 and int(digits) <= MAX_FD):
        raise ValueError(f"fd://N with the number of an inherited descriptor, not {'fd://' + digits!r}")
    return int(digits)


def _tcp(text: str) -> Tcp:
    match = _TCP.fullmatch(text)
    if match is None:
        raise ValueError(f"{EXPECTED}, not {text!r}")
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"a port from 0 to 65535, not {text!r}")
    if match["v6"] is not None:
        return Tcp(_v6(match["v6"], text), port)
    host = match["host"]
    if not host:
        raise ValueError(f"a host before the port (0.0.0.0:{port} or [::]:{port} for every interface), not {text!r}")
    if ":" in host:
        raise ValueError(f"brackets around an IPv6 address, such as [::1]:{port}, not {text!r}")
    if len(host) > 253 or not _HOST.fullmatch(host) or (_NUMERIC.fullmatch(host) and not _is_v4(host)):
        raise ValueError(f"a host name or address before the port, not {text!r}")
    return Tcp(host.lower(), port)


def _is_v4(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return False
    return True


def _v6(host: str, text: str) -> str:
    import ipaddress  # 0.3 MB, for those who write a v6 address

    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        raise ValueError(f"an IPv6 address in the brackets, not {text!r}") from None
