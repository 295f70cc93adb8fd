"""Listening sockets: opened here once, or taken over from whoever opened them, and shared by all workers.

Invariant: opening disturbs nobody. A socket path is replaced only when nobody answers on it, a path that is something
else is never touched, and closing removes only what opening made. Every socket is non-blocking and close-on-exec.

Sources: ip(7), tcp(7), ipv6(7), unix(7), systemd.socket(5).
"""

from __future__ import annotations

import contextlib
import errno
import grp
import math
import os
import pwd
import socket
import stat

from supervisor.errors import SurroundingsError
from supervisor.kernel import notify, procfs
from supervisor.kernel.address import MAX_UNIX_PATH

BACKLOG = 4096  # the kernel lowers it to net.core.somaxconn
SOCKET_MODE = 0o666  # whoever may enter the directory may connect, as systemd's SocketMode= has it
_PROBE_TIMEOUT = 0.5


class Listener:
    """One listening socket.

    `address` is what was asked for and `bound` what it became (`127.0.0.1:0`, then `127.0.0.1:38211`), both as people
    write them. `inherited` sockets were opened by somebody else. `file` is the socket file of one that was opened by
    another master, its path and inode.
    """

    def __init__(
        self,
        address: str,
        sock: socket.socket,
        *,
        inherited: bool = False,
        file: tuple[str, tuple[int, int] | None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self.address = address
        self.sock = sock
        self.bound = _describe(sock)
        self.inherited = inherited
        path = os.path.abspath(sock.getsockname()) if sock.family == socket.AF_UNIX and not inherited else ""
        self.path, self.inode = file if file is not None else (path, _inode(path) if path else None)

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self, *, keep_file: bool = False) -> None:
        """Stop listening, and remove the socket file if it still is this one, unless somebody else holds the socket.

        Of an inherited socket only our own descriptor is closed: it goes on listening for whoever passed it. Twice does
        no harm.
        """
        if not keep_file and self.inode is not None and _inode(self.path) == self.inode:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self.inode = None
        self.sock.close()

    def __repr__(self) -> str:
        return f"<Listener {self.bound}{' (inherited)' if self.inherited else ''}>"


def open_tcp(host: str, port: int, *, backlog: int = BACKLOG, defer: float = 0.0) -> Listener:
    """Listen on `host:port`; port 0 takes a free one, an empty host is every IPv4 address.

    With `defer` the kernel hands a connection out only with its first bytes, or, from a silent client, after about that
    many seconds (tcp(7), TCP_DEFER_ACCEPT); 0 hands it out at once.

    A name that has several addresses is bound to one, IPv4 first (as gunicorn does): `localhost` is 127.0.0.1. IPv6
    sockets take IPv6 only, so `0.0.0.0:80` and `[::]:80` can be bound side by side. Raises `SurroundingsError`.
    """
    address = _join(host, port)
    family, sockaddr = _resolve(host, port, address)
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise SurroundingsError(f"{address}: {_reason(error)}: this machine has no such network") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if defer:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, math.ceil(defer))
        sock.bind(sockaddr)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise SurroundingsError(_tcp_refusal(address, port, error)) from None
    return Listener(address, sock)


def open_unix(
    path: str, *, backlog: int = BACKLOG, mode: int = SOCKET_MODE, owner: tuple[int, int] = (-1, -1)
) -> Listener:
    """Listen on a socket file with exactly this `mode` and `owner` (uid and gid, -1 for our own, as chown(2) has it).

    A stale file is replaced. Raises `SurroundingsError`.
    """
    check_unix_path(path)
    _clear_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # bind gives the file no more than this: it is never open to others, even briefly
        os.fchmod(sock.fileno(), mode if owner == (-1, -1) else 0)
        sock.bind(path)
        if owner != (-1, -1):
            _give_away(path, owner)
        os.chmod(path, mode)  # and now what the umask took away
        sock.listen(backlog)
    except SurroundingsError:
        sock.close()
        os.unlink(path)
        raise
    except OSError as error:
        sock.close()
        raise SurroundingsError(_path_refusal(path, error)) from None
    return Listener(f"unix:{path}", sock)


def find_owner(name: str) -> tuple[int, int]:
    """Uid and gid of `user:group`, `user` or `:group`, each a name or a number; -1 for what is left out.

    Raises `SurroundingsError` when this machine does not know the name.
    """
    user, _, group = name.partition(":")
    try:
        uid = -1 if not user else int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise SurroundingsError(f"unix_owner {name}: this machine has no user {user!r}") from None
    try:
        gid = -1 if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise SurroundingsError(f"unix_owner {name}: this machine has no group {group!r}") from None
    return uid, gid


def longest_backlog() -> int | None:
    """What the kernel cuts every backlog down to, net.core.somaxconn (listen(2)); None when it does not say."""
    try:
        with open("/proc/sys/net/core/somaxconn") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def adopt_fd(number: int) -> Listener:
    """Take over a listening stream socket that was inherited as descriptor `number`. Raises `SurroundingsError`.

    A duplicate is used: the descriptor itself stays as it is (close-on-exec from now on), to be adopted again later.
    """
    return _adopt(number, f"fd://{number}")


def adopt_systemd(name: str) -> Listener:
    """Take over the socket that systemd passed with this name: `FileDescriptorName=`, or its unit's own name.

    `web` also finds `web.socket`, the name that systemd gives without `FileDescriptorName=`. Raises
    `SurroundingsError`, also when several sockets have the name: one of them would go unserved.
    """
    address = f"systemd:{name}"
    passed = notify.listen_fds()
    fds = [fd for fd, known in passed if known == name] or [fd for fd, known in passed if known == f"{name}.socket"]
    if not passed:
        raise SurroundingsError(f"{address}: systemd passed no sockets; start holdfast through its .socket unit")
    if not fds:
        names = ", ".join(sorted({known for _fd, known in passed}))
        raise SurroundingsError(f"{address}: systemd passed no socket of this name, only: {names}")
    if len(fds) > 1:
        numbers = ", ".join(f"fd://{fd}" for fd in fds)
        raise SurroundingsError(f"{address}: {len(fds)} sockets have this name; bind them as {numbers}")
    return _adopt(fds[0], address)


def check_unix_path(path: str) -> None:
    """Raises `SurroundingsError` when the kernel has no room for a socket's `path`."""
    length = len(os.fsencode(path))
    if length > MAX_UNIX_PATH:
        raise SurroundingsError(
            f"{path} is {length} bytes long and a socket's path may have {MAX_UNIX_PATH}; choose a shorter one"
        )


def _adopt(number: int, address: str) -> Listener:
    try:
        is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        raise SurroundingsError(f"{address}: no such descriptor was passed to holdfast") from None
    if not is_socket:
        raise SurroundingsError(f"{address}: not a socket; it must be a listening stream socket")
    sock = socket.socket(fileno=os.dup(number))
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise SurroundingsError(f"{address}: the socket does not listen; it must be a listening stream socket")
    os.set_inheritable(number, False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Listener(address, sock, inherited=True)


def _resolve(host: str, port: int, address: str) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    # Bytes, because a str would load the idna codec and its tables (1 MB) even for a plain IPv4 address.
    name = host.encode("ascii") if host.isascii() else host
    try:
        found = socket.getaddrinfo(name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "not a host name"
        raise SurroundingsError(f"{address}: the host {host!r} can't be resolved: {reason}") from None
    family, _type, _protocol, _name, sockaddr = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, sockaddr  # type: ignore[return-value]  # typeshed also allows for Pythons without IPv6


def _clear_stale(path: str) -> None:
    """Remove a socket file on which nobody answers. Anything else in the way is an error."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SurroundingsError(_path_refusal(path, error)) from None
    if not stat.S_ISSOCK(mode):
        raise SurroundingsError(f"{path} exists and is not a socket; move it away or choose another path")
    if _is_answered(path):
        raise SurroundingsError(f"{path} is in use: a process answers on it; stop it or choose another path")
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SurroundingsError(_path_refusal(path, error)) from None


def _give_away(path: str, owner: tuple[int, int]) -> None:
    try:
        os.chown(path, *owner)
    except OSError as error:
        who = ":".join("" if number < 0 else str(number) for number in owner)
        raise SurroundingsError(f"{path}: can't be given to {who}: {_reason(error)}: that takes root") from None


def _is_answered(path: str) -> bool:
    """Only a refused connection shows that nobody listens: a full backlog or a forbidden socket has an owner."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True


def _tcp_refusal(address: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        owner = procfs.tcp_listener(port)
        by = f" by {owner[1]} (pid {owner[0]})" if owner else ""
        return f"{address} is in use{by}; stop that process or bind another address"
    if error.errno == errno.EACCES:
        return (
            f"{address}: a port this low needs root, the capability CAP_NET_BIND_SERVICE or a systemd socket; "
            "or bind a port from 1024 on"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address} is not an address of this machine; bind 127.0.0.1, 0.0.0.0 or one that `ip address` shows"
    return f"{address}: {_reason(error)}"


def _path_refusal(path: str, error: OSError) -> str:
    folder = os.path.dirname(path) or "."
    if error.errno == errno.ENOENT:
        return f"{path}: the directory {folder} does not exist; create it or choose another path"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path}: {_reason(error)}: user {os.geteuid()} can't write in {folder}; choose another path"
    return f"{path}: {_reason(error)}"


def _describe(sock: socket.socket) -> str:
    """A socket's own address as people write it; `unix:@name` is an abstract one."""
    name = sock.getsockname()
    if sock.family != socket.AF_UNIX:
        return _join(name[0], name[1])
    if isinstance(name, bytes):
        return "unix:@" + name[1:].decode("utf-8", "replace")
    return f"unix:{name}"


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
