"""Descriptors that outlive the process that opened them: kept in flight, in the queue of a socket that others hold.

Invariants:
- What is kept stays open as long as anybody holds the vault's taking end, whoever dies, and nobody has to do anything
  for it (unix(7), SCM_RIGHTS: a descriptor under way is a reference to its file).
- There is no moment without: what goes on being kept is put in again before it is taken out, and looking takes nothing
  out (recv(2), MSG_PEEK; socket(7), SO_PEEK_OFF).
- A token names one descriptor for ever; the newest message with it counts.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections.abc import Collection, Mapping

from supervisor.errors import SurroundingsError

_PEEK_OFF = 42  # SO_PEEK_OFF, which Python has no name for
_A_MESSAGE = 100  # descriptors; the kernel allows 253
_ROOM = 2**20  # bytes asked for; the kernel gives as much as net.core.wmem_max allows, for some ten thousand
_TOKEN = struct.Struct("q")
_MOST_BYTES = _A_MESSAGE * _TOKEN.size

_Identity = tuple[int, int]  # device and inode


class Vault:
    """`give` is the owner's end, `take` the one that others hold copies of; both are owned by this object."""

    def __init__(self, give: socket.socket, take: socket.socket) -> None:
        for end in (give, take):
            end.setblocking(False)
            end.set_inheritable(False)
        self.give = give
        self.take = take
        self._kept: dict[int, tuple[int, _Identity]] = {}  # token and identity, by descriptor
        self._messages: list[list[int]] = []  # tokens, in the queue's order
        self._next = 1

    @classmethod
    def empty(cls) -> Vault:
        """A new one."""
        give, take = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        give.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        return cls(give, take)

    @property
    def tokens(self) -> dict[int, int]:
        """The tokens of what is kept, by descriptor; not of one that has been closed since, or means another file."""
        return {fd: token for fd, (token, identity) in self._kept.items() if _identity_or_none(fd) == identity}

    def look(self) -> dict[int, int]:
        """New descriptors of all that is in it, by token, for whoever has just come by it."""
        self.take.setsockopt(socket.SOL_SOCKET, _PEEK_OFF, 0)
        found: dict[int, int] = {}
        self._messages.clear()
        with contextlib.suppress(BlockingIOError):
            while message := _peek(self.take):
                self._messages.append(list(message))
                for token, fd in message.items():
                    if token in found:
                        os.close(found[token])
                    found[token] = fd
        self.take.setsockopt(socket.SOL_SOCKET, _PEEK_OFF, -1)
        self._next = max(found, default=0) + 1
        return found

    def resume(self, tokens: Mapping[int, int]) -> None:
        """Go on, after `look`, knowing these descriptors as what is kept under their tokens."""
        self._kept = {fd: (token, _identity(fd)) for fd, token in tokens.items()}

    def keep(self, fds: Collection[int]) -> None:
        """Keep exactly these from now on. Raises `OSError` when the kernel has no room, with what was kept before."""
        known = {fd: it for fd, it in self._kept.items() if fd in fds and it[1] == _identity(fd)}
        fresh = {fd: (self._next + at, _identity(fd)) for at, fd in enumerate(sorted(set(fds) - known.keys()))}
        self._put({token: fd for fd, (token, _) in fresh.items()})
        self._next += len(fresh)
        self._kept = known | fresh
        self._clear()

    def close(self) -> None:
        """Let go; what is in it is gone with the last who holds the taking end."""
        self.give.close()
        self.take.close()

    def _clear(self) -> None:
        """Take out what is kept no more, with all that was put in before it, which is put in again first."""
        live = {token: fd for fd, (token, _identity) in self._kept.items()}
        stale = [at for at, tokens in enumerate(self._messages) if any(token not in live for token in tokens)]
        if not stale:
            return
        count = stale[-1] + 1
        self._put({token: live[token] for tokens in self._messages[:count] for token in tokens if token in live})
        for _ in range(count):
            self.take.recv(_MOST_BYTES)  # without room for them, the kernel closes the descriptors
        del self._messages[:count]

    def _put(self, fds: Mapping[int, int]) -> None:
        tokens = list(fds)
        for at in range(0, len(tokens), _A_MESSAGE):
            some = tokens[at : at + _A_MESSAGE]
            data = b"".join(map(_TOKEN.pack, some))
            rights = array.array("i", [fds[token] for token in some])
            self.give.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL)
            self._messages.append(some)


def _peek(take: socket.socket) -> dict[int, int]:
    """The next message, which stays where it is; empty at the end of a queue that nobody gives to any more."""
    how = socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC
    data, ancillary, flags, _address = take.recvmsg(_MOST_BYTES, socket.CMSG_SPACE(_A_MESSAGE * 4), how)
    fds = array.array("i")
    for _level, _kind, payload in ancillary:
        fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    tokens = [token for (token,) in _TOKEN.iter_unpack(data[: len(data) - len(data) % _TOKEN.size])]
    if flags & socket.MSG_CTRUNC or len(tokens) != len(fds):
        for fd in fds:
            os.close(fd)
        raise SurroundingsError("what a former master has left can't be taken over: no room for its descriptors")
    return dict(zip(tokens, fds, strict=True))


def _identity_or_none(fd: int) -> _Identity | None:
    try:
        return _identity(fd)
    except OSError:
        return None


def _identity(fd: int) -> _Identity:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
