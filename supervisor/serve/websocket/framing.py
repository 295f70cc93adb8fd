"""What the bytes of one open WebSocket say, and how messages become bytes. Pure (RFC 6455 sections 5 to 8, RFC 7692).

The websockets library reads and writes the frames; its defaults of permessage-deflate are ours. What is added here:
whole messages out of fragments, UTF-8, and a short cut for the frame of every day, which is small, final, and comes
alone.

Invariant: the short cut is taken only while the library holds nothing, neither a byte of an unfinished frame nor a
fragment of an unfinished message. Both ways give the same messages for the same bytes, however they are cut.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, ProtocolError
from websockets.extensions.permessage_deflate import enable_server_permessage_deflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from supervisor.errors import HoldfastError
from supervisor.serve.http1.answer import frozen

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the compiled part
    from websockets.utils import apply_mask

FINAL_TEXT, FINAL_BINARY = 0x81, 0x82
_SHORT = 126  # a payload below this has its length in the frame's second byte
_TEXT_HEADS = tuple(bytes((FINAL_TEXT, size)) for size in range(_SHORT))
_BINARY_HEADS = tuple(bytes((FINAL_BINARY, size)) for size in range(_SHORT))

NO_CODE = 1005  # what a close without a code is called in the app's events
MAX_REASON = 123  # bytes

# The library reports each connection's end to a logger: clients that come and go are no news.
_QUIET = logging.Logger("websockets", logging.ERROR)


class OfferError(HoldfastError):
    """The client's Sec-WebSocket-Extensions field is malformed."""


class CodeError(HoldfastError):
    """The app closes with a code that no close frame may have (RFC 6455 section 7.4)."""


class Framing:
    """Feed it with `receive`; while `heed` is set, look at `closed`, `broken`, `ponged`, and write `outgoing()`."""

    __slots__ = (
        "_bare",
        "_begun",
        "_empty",
        "_kind",
        "_left",
        "_partial",
        "_protocol",
        "agreed",
        "broken",
        "closed",
        "heed",
        "ponged",
    )

    def __init__(self, limit: int, offers: Sequence[str], *, deflate: bool) -> None:
        """`limit` is the size of the largest message, uncompressed, in bytes; `offers` are the client's extensions.
        Raises `OfferError`."""
        extensions = enable_server_permessage_deflate(None) if deflate else None
        self._protocol = ServerProtocol(extensions=extensions, state=State.OPEN, max_size=limit, logger=_QUIET)
        self.agreed: str | None = None  # the answer's Sec-WebSocket-Extensions
        if offers and deflate:
            headers = Headers([("Sec-WebSocket-Extensions", offer) for offer in offers])
            try:
                self.agreed, self._protocol.extensions = self._protocol.process_extensions(headers)
            except InvalidHandshake:
                raise OfferError("Sec-WebSocket-Extensions is malformed") from None
        self._bare = self.agreed is None
        self._empty = True  # the library holds nothing, and goes on reading
        self._begun = b""  # the first bytes of a frame, as long as they don't tell its size
        self._left = 0  # bytes of an unfinished frame that are still to come
        self._kind = Opcode.TEXT  # of the message that `_partial` belongs to
        self._partial: bytearray | None = None
        self.heed = False
        self.closed: Close | None = None  # the end, as the app should hear of it
        self.broken = False  # the client broke the protocol; it was told why, and nothing is read any more
        self.ponged = False

    def receive(self, data: bytes) -> Sequence[str | bytes]:
        """The messages that `data` completes."""
        size = len(data)
        # A masked frame below 126 bytes: 6 bytes of head, the mask's bit and the payload's size in the second one.
        if self._empty and 5 < size < _SHORT + 6 and data[1] == size + 122:
            if data[0] == FINAL_TEXT:
                try:
                    return (str(apply_mask(data[6:], data[2:6]), "utf-8"),)
                except UnicodeDecodeError:
                    pass  # told to the client below
            elif data[0] == FINAL_BINARY:
                return (apply_mask(data[6:], data[2:6]),)
        return self._read(data)

    def _read(self, data: bytes) -> Sequence[str | bytes]:
        protocol = self._protocol
        protocol.receive_data(data)
        messages: list[str | bytes] = []
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.PONG:
                self.ponged = True
            elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) and not self.broken:
                self._join(frame, messages)
        if protocol.eof_sent and self.closed is None:
            self.closed = protocol.close_rcvd or protocol.close_sent
            self.broken = self.broken or protocol.close_rcvd is None
        self._empty = self._ends_a_frame(data) and self._partial is None and protocol.state is State.OPEN
        self.heed = True
        return messages

    def _ends_a_frame(self, data: bytes) -> bool:
        """Whether the last of the frames in `data` is whole, and the next byte begins a new one. The library's buffer
        does not tell: a frame's head is out of it before the rest has come."""
        if self._begun:
            data = self._begun + data
        at, end = self._left, len(data)
        while at < end:
            head = data[at : at + 10]
            size = head[1] & 0x7F if len(head) > 1 else _SHORT
            length = 0 if size < _SHORT else 2 if size == _SHORT else 8
            if len(head) < 2 + length:
                self._begun, self._left = head, 0
                return False
            at += 6 + (length + int.from_bytes(head[2 : 2 + length], "big") if length else size)
        self._begun, self._left = b"", at - end
        return at == end

    def _join(self, frame: Frame, messages: list[str | bytes]) -> None:
        if frame.opcode is not Opcode.CONT:
            self._kind = frame.opcode
        data: bytes | bytearray = bytes(frame.data)
        # One growing buffer: a list would cost forty times its size when each fragment is a byte.
        if self._partial is not None:
            self._partial += data
            data = self._partial
        elif not frame.fin:
            self._partial = bytearray(data)
        if not frame.fin:
            return
        self._partial = None
        try:
            messages.append(str(data, "utf-8") if self._kind is Opcode.TEXT else bytes(data))
        except UnicodeDecodeError as error:
            reason = f"{error.reason} at position {error.start}"
            self._protocol.fail(1007, reason)
            self.closed = Close(1007, reason)  # also when more came with it, and the library has found an end in that
            self.broken = True

    def text(self, text: str) -> bytes:
        """A text message."""
        data = text.encode()
        if self._bare and len(data) < _SHORT:
            return _TEXT_HEADS[len(data)] + data
        self._protocol.send_text(data)
        return self.outgoing()

    def binary(self, data: bytes) -> bytes:
        """A binary message."""
        data = frozen(data)
        if self._bare and len(data) < _SHORT:
            return _BINARY_HEADS[len(data)] + data
        self._protocol.send_binary(data)
        return self.outgoing()

    def ping(self) -> bytes:
        """A ping; `ponged` says whether an answer has come."""
        self._protocol.send_ping(b"")
        return self.outgoing()

    def close(self, code: int, reason: str) -> bytes:
        """Our close frame, with as much of `reason` as goes into one. Raises `CodeError`."""
        short = reason.encode()[:MAX_REASON].decode("utf-8", "ignore")
        try:
            self._protocol.send_close(None if code == NO_CODE else code, "" if code == NO_CODE else short)
        except ProtocolError:
            raise CodeError(f"the app closes with {code}, which is not a code to send") from None
        self._empty = False
        return self.outgoing()

    def outgoing(self) -> bytes:
        """What the library wants written."""
        return b"".join(self._protocol.data_to_send())
