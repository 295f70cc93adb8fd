"""Who may do what over the control socket: the kernel tells who the peer is, and this what that comes to.

Invariant: our own user and root may do all, the group that the settings name what they grant it, everybody else
nothing; and no user's clients, whatever they do, keep another user's out.

A group named by the settings may have lost or gained members since the peer logged in: what counts is what the kernel
gave the peer's process when it connected. Source: unix(7), SO_PEERCRED; socket(7) has no word on SO_PEERGROUPS (59).
"""

from __future__ import annotations

import enum
import os
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

_SO_PEERGROUPS = 59  # asm-generic/socket.h; the socket module does not name it
_UCRED = struct.Struct("3i")  # pid, uid, gid
_MOST_GROUPS = 256  # Python's getsockopt returns 1024 bytes at most


class Access(enum.Enum):
    """What a peer may do."""

    NONE = enum.auto()
    READ = enum.auto()  # what is asked with GET
    FULL = enum.auto()


class Peer(NamedTuple):
    """The process that has connected, as it was then."""

    uid: int
    groups: frozenset[int]


Permit = Callable[[Peer], Access]


def peer_of(sock: socket.socket) -> Peer:
    """Ask the kernel. Of a peer in more than 256 supplementary groups only its own group is known."""
    _pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        listed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS * 4)
    except OSError:  # ERANGE, or a kernel before 4.13
        listed = b""
    return Peer(uid, frozenset({gid, *struct.unpack(f"{len(listed) // 4}I", listed)}))


def permit(group: int | None = None, access: Access = Access.READ) -> Permit:
    """All to our own user and root, `access` to members of `group`."""
    owner = os.geteuid()

    def judge(peer: Peer) -> Access:
        if peer.uid in (0, owner):
            return Access.FULL
        return access if group in peer.groups else Access.NONE

    return judge
