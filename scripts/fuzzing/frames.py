"""A second reading of WebSocket frames, a client's and a server's: RFC 6455 section 5 by the letter, slow and plain.

Invariant: it shares no code with the server, nor with the library that the server uses.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014)) | frozenset(
    range(3000, 5000)
)
NO_CODE = 1005
PROTOCOL_ERROR, NOT_UTF_8, TOO_BIG = 1002, 1007, 1009


class Frame(NamedTuple):
    fin: bool
    rsv: int
    opcode: int
    data: bytes


class Stream(NamedTuple):
    """What a client's frames come to. `codes` are those that the end may have, none while there is none; `broken` when
    the client has broken the protocol."""

    messages: list[str | bytes]
    pings: list[bytes]
    codes: frozenset[int]
    broken: bool


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A client's frame, masked with zeros, so that a fuzzer can read it."""
    size = len(data)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return bytes((fin << 7 | rsv << 4 | opcode,)) + length + bytes(4) + data


class _Breach(Exception):  # noqa: N818 - it is what a client does, and no error here
    def __init__(self, *codes: int) -> None:
        super().__init__()
        self.codes = frozenset(codes)


def read_client(data: bytes, limit: int) -> Stream:
    """Without extensions; no message is larger than `limit` bytes."""
    messages: list[str | bytes] = []
    pings: list[bytes] = []
    kind = CONT
    message = b""
    at = 0
    try:
        while (taken := _client_frame(data, at, limit - len(message))) is not None:
            each, at = taken
            if each.opcode == CLOSE:
                if kind:
                    raise _Breach(PROTOCOL_ERROR, *_check_close(each.data))
                return Stream(messages, pings, _check_close(each.data), broken=False)
            if each.opcode == PING:
                pings.append(each.data)
            elif each.opcode != PONG:
                if (each.opcode == CONT) is not bool(kind):
                    raise _Breach(PROTOCOL_ERROR)
                kind = kind or each.opcode
                message += each.data
                if each.fin:
                    messages.append(_decode(message) if kind == TEXT else message)
                    kind, message = CONT, b""
    except _Breach as breach:
        return Stream(messages, pings, breach.codes, broken=True)
    return Stream(messages, pings, frozenset(), broken=False)


def _client_frame(data: bytes, at: int, room: int) -> tuple[Frame, int] | None:
    """The frame that begins at `at`, and where it ends; None when it is not whole."""
    if len(data) - at < 2:
        return None
    first, second = data[at], data[at + 1]
    fin, rsv, opcode, size = bool(first & 0x80), first >> 4 & 7, first & 15, second & 0x7F
    if opcode not in (CONT, TEXT, BINARY, CLOSE, PING, PONG) or not second & 0x80:
        raise _Breach(PROTOCOL_ERROR)
    at += 2
    extra = {126: 2, 127: 8}.get(size, 0)
    if len(data) - at < extra:
        return None
    size, at = int.from_bytes(data[at : at + extra], "big") if extra else size, at + extra
    wrong = {PROTOCOL_ERROR} if rsv or (opcode >= CLOSE and (size > 125 or not fin)) else set()
    if size > room:
        raise _Breach(TOO_BIG, *wrong)
    end = at + 4 + size
    if len(data) < end:
        return None
    if wrong:
        raise _Breach(*wrong)
    payload = bytes(byte ^ data[at + index % 4] for index, byte in enumerate(data[at + 4 : end]))
    return Frame(fin, rsv, opcode, payload), end


def _decode(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise _Breach(NOT_UTF_8) from None


def _check_close(data: bytes) -> frozenset[int]:
    if not data:
        return frozenset((NO_CODE,))
    code = int.from_bytes(data[:2], "big")
    wrong = set()
    if len(data) == 1 or code not in CODES:
        wrong.add(PROTOCOL_ERROR)
    try:
        data[2:].decode()
    except UnicodeDecodeError:
        wrong.add(NOT_UTF_8)
    if wrong:
        raise _Breach(*wrong)
    return frozenset((code,))


def read_server(data: bytes, *, compressed: bool) -> list[Frame]:
    """What the server has written. Frames that break the rules, or come behind a close frame, raise AssertionError."""
    frames: list[Frame] = []
    at = 0
    while at < len(data):
        first, second = data[at], data[at + 1]
        size = second & 0x7F
        assert second < 0x80, "a masked frame"
        extra = {126: 2, 127: 8}.get(size, 0)
        size = int.from_bytes(data[at + 2 : at + 2 + extra], "big") if extra else size
        assert not extra or size > (125 if extra == 2 else 65535), "a size that is written too long"
        at += 2 + extra
        each = Frame(bool(first & 0x80), first >> 4 & 7, first & 15, data[at : at + size])
        assert len(each.data) == size, "half a frame"
        assert each.opcode in (CONT, TEXT, BINARY, CLOSE, PING, PONG)
        assert each.rsv in ((0, 4) if compressed and each.opcode in (TEXT, BINARY) else (0,))
        assert each.opcode < CLOSE or (each.fin and size < 126), "a control frame that is none"
        assert each.opcode == PONG or CLOSE not in {before.opcode for before in frames}, (
            "a frame behind the close frame"
        )
        frames.append(each)
        at += size
    return frames
