"""Runs a command with less: `confine.py [WHAT=VALUE].. -- MODULE COMMAND..`; `MODULE` is ours that the command runs.

Invariants:
- Nothing that the app's user may have written runs before the user has changed: this is run by the master's own
  interpreter (`-I -S`), and the release's, which may lie in the app's own venv, only by the last exec.
- What was asked for is in force, or the command does not run: an identity is checked after it was taken, and cannot be
  given back.
- It stands alone: nothing is imported that the standard library does not have.

Sources: setresuid(2), capabilities(7), prctl(2), proc(5) (`oom_score_adj`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Sequence

PR_CAPBSET_DROP = 24  # linux/prctl.h
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
CAPABILITIES = 64  # more than there are; the kernel tells where they end
LARGEST_ADJUSTMENT = 1000  # OOM_SCORE_ADJ_MAX

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Confine this process, then become the command. Returns an exit code when that failed."""
    split = sys.argv.index("--")
    wanted = dict(argument.partition("=")[::2] for argument in sys.argv[1:split])
    module, *command = sys.argv[split + 1 :]
    try:
        _confine(wanted)
    except OSError as error:
        return _refuse(module, f"can't become user {wanted.get('uid', '')}: {error.strerror or error}")
    try:
        os.execv(command[0], command)  # noqa: S606  # no shell on purpose
    except OSError as error:
        return _refuse(module, f"python {command[0]} can't be run: {error.strerror}{_as_whom(wanted)}")


def _confine(wanted: dict[str, str]) -> None:
    if "oom" in wanted:
        _die_before_the_master(int(wanted["oom"]))
    if "umask" in wanted:
        os.umask(int(wanted["umask"], 8))
    uid = int(wanted["uid"]) if "uid" in wanted else None
    if "no_new_privs" in wanted and (uid or os.geteuid()):
        _shrink_bounding_set()
    if "gid" in wanted:
        _become(uid, int(wanted["gid"]), [int(number) for number in wanted["groups"].split(",")])
    if "no_new_privs" in wanted:
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        if os.geteuid() != 0:
            _drop_capabilities()


def _become(uid: int | None, gid: int, groups: Sequence[int]) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    if uid is not None:
        os.setresuid(uid, uid, uid)
    if os.getresgid() != (gid,) * 3 or set(os.getgroups()) != set(groups):
        raise OSError("the groups are not those that were set")
    if not uid:
        return
    if os.getresuid() != (uid,) * 3:
        raise OSError("the user is not the one that was set")
    with contextlib.suppress(PermissionError):
        os.setresuid(0, 0, 0)
        raise OSError("root could be regained")


def _shrink_bounding_set() -> None:
    """No program that is run later gains a capability by its file. Takes CAP_SETPCAP; no_new_privs bars it, too."""
    for capability in range(CAPABILITIES):
        try:
            _prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # past the last one, or not permitted
            return


def _drop_capabilities() -> None:
    """Those that a service manager gave to the master are for the master."""
    with contextlib.suppress(OSError):  # a kernel without ambient capabilities has none to clear
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")


def _die_before_the_master(more: int) -> None:
    """Raising the score takes no privilege; where /proc does not let us, the kernel chooses by size alone."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        score = min(LARGEST_ADJUSTMENT, int(file.read()) + more)
        file.seek(0)
        file.write(str(score))


def _prctl(option: int, argument: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero) != 0:
        raise OSError(ctypes.get_errno(), f"prctl: {os.strerror(ctypes.get_errno())}")


def _as_whom(wanted: dict[str, str]) -> str:
    return f" (as user {wanted['uid']})" if "uid" in wanted else ""


def _refuse(module: str, reason: str) -> int:
    """Tell it as the bootstrap tells what it finds."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from supervisor.spawner.bootstrap import refuse

    return refuse(module, reason)


if __name__ == "__main__":
    sys.exit(main())
