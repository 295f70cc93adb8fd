r"""The corpus: raw requests, one a file below `corpus/`, with what has to come of them.

A file says in a sentence what it shows, then come `key: value` lines, then, below `---`, the bytes. Line ends of the
file are not part of them: `\r`, `\n`, `\t`, `\\` and `\xHH` are written out, and `\(40 ab)` is `ab` forty times.

    Content-Length beside chunked: two ways to tell where the body ends.
    source: RFC 9112 section 6.3
    answers: 400
    ---
    POST / HTTP/1.1\r\n
    Host: a\r\n

`source`   who says so
`answers`  the statuses of the answers, in order; none when there is no such line
`sees`     a request as the app sees it: method, target, body; a line for each, in order
`end`      `open`: a further request would be served; `closed`: the server has ended the connection, or ends it with the
           client's half; `waits`: more bytes of this request are wanted. Without it, `closed` behind a refusal, else
           `open`
`zttp`     `takes`: the parser alone would let it pass, and it is a check of ours that refuses it
`limits`   `name=number` of supervisor.serve.limits.Limits, where the default would make the file long
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from supervisor.serve.limits import Limits

CORPUS = Path(__file__).parent / "corpus"
KEYS = ("source", "answers", "sees", "end", "zttp", "limits")
ENDS = ("open", "closed", "waits")

_REPEATED = re.compile(r"\\\((\d+) ([^)]*)\)")
_LIMITS = {field.name: field.type for field in fields(Limits)}


@dataclass(frozen=True)
class Case:
    """One file. `what` is its first sentence, `sees` what the app gets as `METHOD target body`."""

    name: str
    what: str
    source: str
    wire: bytes
    answers: tuple[int, ...]
    sees: tuple[bytes, ...]
    end: str
    zttp_takes: bool
    limits: Limits


class CaseError(Exception):
    """A file of the corpus is not written as they are; the message names it."""


def load() -> Iterator[Case]:
    """All of them, by name. Raises `CaseError`."""
    for path in sorted(CORPUS.rglob("*.http")):
        yield parse(path.relative_to(CORPUS).with_suffix("").as_posix(), path.read_text("ascii"))


def parse(name: str, text: str) -> Case:
    """One file's content. Raises `CaseError`."""
    head, mark, raw = text.partition("---\n")
    what, *lines = head.splitlines()
    values: dict[str, list[str]] = {key: [] for key in KEYS}
    for line in lines:
        key, colon, value = line.partition(":")
        if not colon or key not in values:
            raise CaseError(f"{name}: {line!r} is not one of {', '.join(KEYS)}")
        values[key].append(value.strip())
    if not mark or not values["source"]:
        raise CaseError(f"{name}: a source and `---` are needed")
    answers = tuple(int(status) for line in values["answers"] for status in line.split())
    refused = bool(answers) and answers[-1] >= 400
    end = values["end"][0] if values["end"] else "closed" if refused else "open"
    if end not in ENDS:
        raise CaseError(f"{name}: the end is one of {', '.join(ENDS)}")
    sees = tuple(unescape(line) for line in values["sees"])
    limits = _limits(name, " ".join(values["limits"]))
    wire = unescape("".join(raw.splitlines()))
    zttp_takes = values["zttp"] == ["takes"]
    return Case(name, what, "; ".join(values["source"]), wire, answers, sees, end, zttp_takes, limits)


def unescape(text: str) -> bytes:
    """The bytes that `text` stands for."""
    repeated = _REPEATED.sub(lambda match: match[2] * int(match[1]), text)
    return repeated.encode("ascii").decode("unicode_escape").encode("latin-1")


def _limits(name: str, text: str) -> Limits:
    values = {}
    for pair in text.split():
        key, _, number = pair.partition("=")
        if key not in _LIMITS or not number.isdigit():
            raise CaseError(f"{name}: {pair!r} is no limit and its number")
        values[key] = int(number)
    return Limits(**values)
