"""Who an app's processes are to be, looked up on this machine."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from supervisor.errors import SurroundingsError
from supervisor.kernel.identity import Identity, find_identity, may_change_users

IS_ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody")
NOGROUP = grp.getgrgid(NOBODY.pw_gid).gr_name

as_root = pytest.mark.skipif(not IS_ROOT, reason="only root may become another user")


def test_nothing_asked_for_is_nobody_else() -> None:
    assert find_identity(None, None) is None


def test_who_we_are_already_needs_no_change_and_no_privilege() -> None:
    assert find_identity(str(os.geteuid()), str(os.getegid())) is None
    assert find_identity(None, str(os.getegid())) is None


@as_root
def test_a_user_comes_with_its_own_group_and_all_others_it_is_in() -> None:
    found = find_identity("nobody", None)
    assert found == Identity(
        NOBODY.pw_uid, NOBODY.pw_gid, tuple(os.getgrouplist("nobody", NOBODY.pw_gid)), "nobody", NOBODY.pw_dir
    )
    assert found == find_identity(str(NOBODY.pw_uid), None)
    assert found.environment == {"USER": "nobody", "LOGNAME": "nobody", "HOME": NOBODY.pw_dir}


@as_root
def test_a_group_takes_the_place_of_the_users_own() -> None:
    found = find_identity("nobody", "0")
    assert found is not None
    assert (found.uid, found.gid) == (NOBODY.pw_uid, 0)
    assert 0 in found.groups


@as_root
def test_a_group_alone_leaves_the_user() -> None:
    assert find_identity(None, NOGROUP) == Identity(None, NOBODY.pw_gid, (NOBODY.pw_gid,))


@as_root
def test_an_unknown_number_is_a_user_as_long_as_a_group_is_named() -> None:
    assert find_identity("4242", "4243") == Identity(4242, 4243, (4243,))
    with pytest.raises(
        SurroundingsError, match="user 4242: this machine has no such user; a bare number needs a group"
    ):
        find_identity("4242", None)


@pytest.mark.parametrize(
    ("user", "group", "said"), [("no-one", None, "user no-one"), ("0", "no-such", "group no-such")]
)
def test_an_unknown_name_is_told_in_one_line(user: str, group: str | None, said: str) -> None:
    with pytest.raises(SurroundingsError, match=f"^{said}: this machine has no such (user|group)$"):
        find_identity(user, group)


def test_who_may_not_change_users_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert may_change_users() == IS_ROOT
    monkeypatch.setattr("supervisor.kernel.identity.may_change_users", lambda: False)
    with pytest.raises(SurroundingsError, match="can't become 4242:4243: only root can, and this is user"):
        find_identity("4242", "4243")
