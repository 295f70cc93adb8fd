"""Parsers, one for each kind of value a setting can have.

Invariant: a parser takes what TOML, a flag's text or a Python keyword gives, and returns the checked value or raises a
`ValueError` whose text is what was expected instead. No parser looks at the machine: whether a path exists or an
address is free shows when it is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from supervisor.kernel.address import MAX_UNIX_PATH, Address, Fd, Systemd, Tcp, Unix, parse_address

__all__ = ["Address", "Fd", "Systemd", "Tcp", "Unix", "parse_address"]

Parser = Callable[[object], Any]

MAX_WORKERS = 1024
MAX_THREADS = 1024
MAX_INFLIGHT = 1_000_000
MAX_CONNECTIONS = 10_000_000
MAX_BACKLOG = 65535  # more than any kernel has held out for; somaxconn was once 16 bits wide
MAX_COUNT = 2**53 - 1  # the largest integer that every JSON reader keeps exact
MAX_SECONDS = 365 * 86400.0
MAX_BINDS = 64
MAX_EXEMPT = 64
MAX_PEERS = 1024
MAX_WORDS = 256
MAX_COMMAND = 64 * 1024  # bytes
MAX_FORMAT = 4096
MAX_PATH = 4095  # bytes; PATH_MAX without the closing NUL, limits.h

_SIZE = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,6})?)\s*(?:([kmgt])(?:i?b)?|b)?", re.ASCII | re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(ms|s|m|h)?", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,16}", re.ASCII)
_IDENTIFIER = r"[^\W\d]\w*"
_TARGET = re.compile(rf"{_IDENTIFIER}(?:\.{_IDENTIFIER})*:{_IDENTIFIER}(?:\.{_IDENTIFIER})*(?:\(\))?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_READY_PATH = re.compile(r"/[!-\"$-~]*")  # what may stand in a request line before '#', RFC 9112 section 3.2.1
_MODE = re.compile(r"(?:0o)?[0-7]{3,4}", re.ASCII)
ACCOUNT = r"(?:[A-Za-z_][A-Za-z0-9_.-]{0,62}\$?|[0-9]{1,9})"  # a name as useradd(8) allows it, or a number
_OWNER = re.compile(rf"{ACCOUNT}(?::{ACCOUNT})?|:{ACCOUNT}", re.ASCII)
_CIPHERS = re.compile(r"[A-Za-z0-9_+!:,@=.-]{1,2000}", re.ASCII)
ATOM = re.compile(
    r"%(?:%|\((?:\{(?P<field>[A-Za-z0-9._-]{1,100})\}(?=[ioe])|(?=[hlutrmUqHsBbfaTDMLpIwg]))(?P<name>[A-Za-z])\)s)"
)
"""One atom of an access log's format, or a percent sign."""

_ROOT_PATH = re.compile(r"|/[A-Za-z0-9._~!$&'()*+,;=:@/-]{0,1000}", re.ASCII)
_APP_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)

_SIZE_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SECOND_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def shown(value: object) -> str:
    """A wrong value as an error message quotes it: one line, cut short."""
    text = "true" if value is True else "false" if value is False else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def count(minimum: int = 1, maximum: int = MAX_COUNT) -> Parser:
    """A parser for a whole number within bounds, written as a number or as digits."""
    bounds = f"a whole number of at least {minimum}" if maximum == MAX_COUNT else f"{minimum} to {maximum}"

    def parse(value: object) -> int:
        number = whole(value)
        if number is None or not minimum <= number <= maximum:
            raise ValueError(f"{bounds}, not {shown(value)}")
        return number

    return parse


def parse_limit(value: object) -> int | None:
    """A whole number of at least 1; 0 means no limit (None), so that a flag can lift what a file sets."""
    number = whole(value)
    if number is None or not 0 <= number <= MAX_COUNT:
        raise ValueError(f"a whole number of at least 1, or 0 for no limit, not {shown(value)}")
    return number or None


def parse_size(value: object) -> int:
    """Bytes, as a number or with a unit: `512M`, `1.5G`, `2GiB`. Units are powers of 1024."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is not None:
        amount = float(match[1]) if "." in match[1] else int(match[1])
        size: int | None = int(amount * _SIZE_UNITS[(match[2] or "").lower()])
    else:
        size = None if isinstance(value, str) else whole(value)
    if size is None or not 0 <= size <= MAX_COUNT:
        raise ValueError(f"a size such as 512M or 2G, not {shown(value)}")
    return size


def parse_body_size(value: object) -> int | None:
    """A size; 0 means no limit (None)."""
    return parse_size(value) or None


def size(minimum: int, maximum: int) -> Parser:
    """A parser for a size within bounds, of which both are a whole number of kibibytes or less than one."""

    def parse(value: object) -> int:
        found = parse_size(value)
        if not minimum <= found <= maximum:
            raise ValueError(f"a size of {_size(minimum)} to {_size(maximum)}, not {shown(value)}")
        return found

    return parse


def parse_message_size(value: object) -> int:
    """A size of at least 125 bytes, what a control frame may have (RFC 6455 section 5.5)."""
    size = parse_size(value)
    if size < 125:
        raise ValueError(f"a size of at least 125 bytes, such as 64K or 16M, not {shown(value)}")
    return size


def seconds(positive: bool = False) -> Parser:
    """A parser for a time: a number of seconds, or text such as `30s`, `5m`, `500ms`, `1h`."""
    expected = "seconds above 0, such as 2.5, 30s or 5m" if positive else "seconds, such as 0, 2.5, 30s or 5m"

    def parse(value: object) -> float:
        number = _seconds(value)
        if not (number is not None and math.isfinite(number) and 0 <= number <= MAX_SECONDS) or (
            positive and number == 0
        ):
            raise ValueError(f"{expected}, not {shown(value)}")
        return number

    return parse


def parse_share(value: object) -> float | None:
    """`auto` (None: an even one), or a part of the whole: 0.05 or 5%."""
    if value == "auto":
        return None
    text = str(value).strip() if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    number, scale = (text[:-1], 100.0) if text.endswith("%") else (text, 1.0)
    try:
        share = float(number) / scale
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ValueError(f"auto, or a share between 0 and 1 such as 0.05 or 5%, not {shown(value)}")
    return share


def parse_switch(value: object) -> bool:
    """`on` or `off`; also true and false, as TOML has them."""
    if isinstance(value, bool):
        return value
    if value not in ("on", "off", "true", "false"):
        raise ValueError(f"on or off, not {shown(value)}")
    return value in ("on", "true")


def one_of(*choices: str) -> Parser:
    """A parser for one of a few words."""
    listed = ", ".join(choices[:-1]) + f" or {choices[-1]}"

    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{listed}, not {shown(value)}")
        return value

    return parse


def parse_target(value: object) -> str:
    """`module:attribute` or `module:factory()`."""
    if not isinstance(value, str) or not _TARGET.fullmatch(value):
        expected = "module:attribute or module:factory(), such as myproject.asgi:app"
        raise ValueError(f"{expected}, not {shown(value)}{_target_hint(value)}")
    return value


def parse_function(value: object) -> str:
    """`module:function`, which is called when the time comes."""
    if not isinstance(value, str) or not _TARGET.fullmatch(value) or value.endswith("()"):
        raise ValueError(f"module:function, such as myproject.hooks:warm_up, not {shown(value)}")
    return value


def parse_hook(value: object) -> str | tuple[str, ...]:
    """`module:function`, or a command as a list of strings, which no shell looks at."""
    if isinstance(value, str):
        return parse_function(value)
    words = value if isinstance(value, Sequence) else ()
    if not 0 < len(words) <= MAX_WORDS or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise ValueError(f'module:function or a command such as ["./manage.py", "migrate"], not {shown(value)}')
    if not words[0] or sum(map(_bytes, words)) > MAX_COMMAND:
        raise ValueError(f'module:function or a command such as ["./manage.py", "migrate"], not {shown(value)}')
    return tuple(words)


def parse_binds(value: object) -> tuple[str, ...]:
    """One address or a list of them, each once; returned in their canonical spelling."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not texts or len(texts) > MAX_BINDS:
        raise ValueError(f'a list of 1 to {MAX_BINDS} addresses such as ["127.0.0.1:8000"], not {shown(value)}')
    addresses: list[str] = []
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f'an address such as "127.0.0.1:8000", not {shown(text)}')
        address = str(parse_address(text))
        if address in addresses:
            raise ValueError(f"each address once, but {address} stands here twice")
        addresses.append(address)
    return tuple(addresses)


def parse_env(value: object) -> dict[str, str]:
    """A table of strings, or a list of `K=V` texts; the last of equal names wins."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        pairs = [_env_pair(text) for text in value]
    else:
        raise ValueError(f'a table such as {{ DEBUG = "1" }}, not {shown(value)}')
    for name, content in pairs:
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise ValueError(f"names of letters, digits and _ (not first a digit), not {shown(name)}")
        if not isinstance(content, str) or "\0" in content:
            raise ValueError(f'a string for {name}, such as {name} = "1", not {shown(content)}')
    return dict(pairs)


def parse_path(value: object) -> str:
    """A path of the file system, not looked at."""
    if not isinstance(value, str) or not value or "\0" in value or _bytes(value) > MAX_PATH:
        raise ValueError(f"a path, not {shown(value)}")
    return value


def parse_log_path(value: object) -> str | None:
    """A path, `-` for stdout, or `off` (None)."""
    if value == "off":
        return None
    if not isinstance(value, str) or not value or "\0" in value or _bytes(value) > MAX_PATH:
        raise ValueError(f"a path, - for stdout, or off, not {shown(value)}")
    return value


def parse_access_format(value: object) -> str:
    """`auto`, `combined`, `json`, or a format of one line whose atoms are known."""
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= MAX_FORMAT:
        raise ValueError(f"auto, combined, json or a format such as %(h)s %(r)s %(s)s, not {shown(value)}")
    if value in ("auto", "combined", "json"):
        return value
    if "%" not in value:
        raise ValueError(f"auto, combined, json or a format such as %(h)s %(r)s %(s)s, not {shown(value)}")
    unknown = ATOM.sub("", value).find("%")
    if unknown >= 0:
        rest = ATOM.sub("", value)[unknown:]
        raise ValueError(f"atoms such as %(h)s, %(s)s, %({{referer}}i)s, or %% for a percent sign, not {shown(rest)}")
    return value


def parse_socket_path(value: object) -> str:
    """A path short enough for a Unix socket."""
    if not isinstance(value, str) or not value or "\0" in value or _bytes(value) > MAX_UNIX_PATH:
        raise ValueError(f"a path of 1 to {MAX_UNIX_PATH} bytes, not {shown(value)}")
    return value


def parse_mode(value: object) -> int:
    """Permission bits as octal text. A number is refused: `660` would be read in decimal, and mean something else."""
    number = int(value, 8) if isinstance(value, str) and _MODE.fullmatch(value) else 0o1000
    if number > 0o777:
        raise ValueError(f'permissions in octal, in quotes, such as "0660", not {shown(value)}')
    return number


def parse_owner(value: object) -> str:
    """`user:group`, `user` or `:group`; whether the machine knows them shows when the socket is opened."""
    if not isinstance(value, str) or not _OWNER.fullmatch(value):
        raise ValueError(f"user:group, user or :group, such as root:www-data, not {shown(value)}")
    return value


def parse_peers(value: object) -> tuple[str, ...]:
    """Addresses and networks, or `*`, as a list or with commas between; an empty one is nobody. Those that IPv6 maps
    from IPv4 are of IPv4, as clients are."""
    texts = [text.strip() for text in value.split(",") if text.strip()] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or len(texts) > MAX_PEERS:
        raise ValueError(f"addresses and networks such as 127.0.0.1,10.0.0.0/8, or *, not {shown(value)}")
    return tuple(_peer(text) for text in texts)


def parse_root_path(value: object) -> str | None:
    """A path without its final slash; an empty one, and `/`, is none."""
    if not isinstance(value, str) or not _ROOT_PATH.fullmatch(value):
        raise ValueError(f"a path that begins with /, such as /api, not {shown(value)}")
    return value.rstrip("/") or None


def parse_ciphers(value: object) -> str:
    """A cipher list, ciphers(1); whether OpenSSL knows them shows when they are used."""
    if not isinstance(value, str) or not _CIPHERS.fullmatch(value):
        raise ValueError(f"an OpenSSL cipher list such as ECDHE+AESGCM, not {shown(value)}")
    return value


def parse_ready_path(value: object) -> str:
    """A path of the app, with or without a query."""
    if not isinstance(value, str) or not _READY_PATH.fullmatch(value) or len(value) > 2048:
        raise ValueError(f"a path of the app that begins with /, such as /health, not {shown(value)}")
    return value


def parse_exempt_paths(value: object) -> tuple[str, ...]:
    """One path or a list of them, without queries."""
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, Sequence) or len(paths) > MAX_EXEMPT:
        raise ValueError(f'a list of at most {MAX_EXEMPT} paths such as ["/health"], not {shown(value)}')
    for path in paths:
        if not isinstance(path, str) or "?" in path or not _READY_PATH.fullmatch(path) or len(path) > 2048:
            raise ValueError(f"paths of the app that begin with / and have no query, not {shown(path)}")
    return tuple(paths)


def parse_app_name(value: object) -> str:
    """What may stand in `[app.NAME]`; `all` is kept for commands."""
    if not isinstance(value, str) or not _APP_NAME.fullmatch(value):
        raise ValueError(f"a name of 1 to 64 letters, digits, - and _, not {shown(value)}")
    if value == "all":
        raise ValueError("a name other than all, which means every app in holdfastctl")
    return value


def _peer(text: object) -> str:
    if text == "*":
        return "*"
    expected = f"an address, a network such as 10.0.0.0/8, or *, not {shown(text)}"
    if not isinstance(text, str):
        raise ValueError(expected)
    import ipaddress  # 0.3 MB, for those who name a network

    try:
        network = ipaddress.ip_network(text)
        mapped = network.version == 6 and network.network_address.ipv4_mapped  # bits behind it are none: 96 at least
        return f"{mapped}/{network.prefixlen - 96}" if mapped else str(network)
    except ValueError as error:
        hint = ": bits are set behind the network's" if "host bits" in str(error) else ""
        raise ValueError(expected + hint) from None


def whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        return int(value)
    return None


def _size(count: int) -> str:
    return f"{count // 1024}K" if count % 1024 == 0 else str(count)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if abs(value) <= MAX_SECONDS else None
    match = _SECONDS.fullmatch(value.strip()) if isinstance(value, str) else None
    return float(match[1]) * _SECOND_UNITS[match[2] or ""] if match else None


def _env_pair(text: object) -> tuple[str, str]:
    if not isinstance(text, str) or "=" not in text:
        raise ValueError(f"K=V such as DEBUG=1, not {shown(text)}")
    name, _, content = text.partition("=")
    return name, content


def _target_hint(value: object) -> str:
    if not isinstance(value, str):
        return ""
    file, _, attribute = value.partition(":")
    if file.endswith(".py") or "/" in file:
        module = file.removesuffix(".py").strip("./").replace("/", ".")
        guess = f"{module}:{attribute or 'app'}"
        return f"; did you mean {guess}?" if _TARGET.fullmatch(guess) else ""
    return f"; did you mean {value}:app?" if _TARGET.fullmatch(f"{value}:app") else ""


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
