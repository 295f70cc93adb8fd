"""Users and groups: whom the app's processes are to run as, looked up early and told in one line when that can't be.

Invariant: an `Identity` is complete (uid, gid, all supplementary groups), so that whoever becomes it asks nobody.

Sources: credentials(7), capabilities(7), getgrouplist(3), proc(5).
"""

from __future__ import annotations

import grp
import os
import pwd

import msgspec

from supervisor.errors import SurroundingsError

_CAP_SETGID, _CAP_SETUID = 6, 7  # linux/capability.h


class Identity(msgspec.Struct, frozen=True):
    """A user with groups. `uid` is None where only the group changes; an unknown one has neither `name` nor `home`."""

    uid: int | None
    gid: int
    groups: tuple[int, ...]
    name: str = ""
    home: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """What a login as this user would set, and systemd's `User=` does."""
        found = {"USER": self.name, "LOGNAME": self.name, "HOME": self.home}
        return {key: value for key, value in found.items() if value}


def find_identity(user: str | None, group: str | None) -> Identity | None:
    """Look up names or numbers; None when that is who we are already.

    Without `group` it is the user's own. Raises `SurroundingsError` when this machine does not know them, or we may
    not become them.
    """
    if user is None and group is None:
        return None
    entry = _user(user) if user is not None else None
    uid = None if user is None else entry.pw_uid if entry is not None else int(user)
    gid = _group(group) if group is not None else entry.pw_gid if entry is not None else None
    if gid is None:
        raise SurroundingsError(f"user {user}: this machine has no such user; a bare number needs a group, too")
    if uid in (None, os.geteuid()) and gid == os.getegid():
        return None
    if not may_change_users():
        who = ":".join(["" if user is None else user, *([] if group is None else [group])])
        raise SurroundingsError(
            f"can't become {who}: only root can, and this is user {os.geteuid()}; leave out user and group"
        )
    if entry is None:
        return Identity(uid, gid, (gid,))
    return Identity(uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)), entry.pw_name, entry.pw_dir)


def may_change_users() -> bool:
    """Whether the kernel would let us take any identity (capabilities(7), CAP_SETUID and CAP_SETGID)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        effective = next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)
    return bool(effective >> _CAP_SETUID & 1 and effective >> _CAP_SETGID & 1)


def _user(name: str) -> pwd.struct_passwd | None:
    """The user's entry; None for a number that has none."""
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        if name.isdigit():
            return None
        raise SurroundingsError(f"user {name}: this machine has no such user") from None


def _group(name: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise SurroundingsError(f"group {name}: this machine has no such group") from None
