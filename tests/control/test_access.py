from __future__ import annotations

import json
import os
import subprocess
import tempfile

import pytest

from supervisor.control.access import Access, Peer, peer_of, permit
from tests.control.stage import stage
from tests.control.wire import dial, get, post, status_of, talk

GROUP = 4321
NOBODY = 65534


def test_the_same_user_and_root_may_do_all() -> None:
    judge = permit()
    assert judge(Peer(os.geteuid(), frozenset())) is Access.FULL
    assert judge(Peer(0, frozenset())) is Access.FULL
    assert judge(Peer(os.geteuid() + 12345, frozenset({0}))) is Access.NONE


def test_a_groups_members_may_what_the_group_is_granted() -> None:
    member, stranger = Peer(12345, frozenset({7, GROUP})), Peer(12346, frozenset({7}))
    assert permit(GROUP)(member) is Access.READ
    assert permit(GROUP, Access.FULL)(member) is Access.FULL
    assert permit(GROUP, Access.FULL)(stranger) is Access.NONE
    assert permit(GROUP)(Peer(0, frozenset())) is Access.FULL


def test_the_kernel_tells_the_peers_user_and_all_its_groups(path: str) -> None:
    with stage(path), dial(path) as sock:  # the listener's credentials are those of who has called listen(2)
        assert peer_of(sock) == Peer(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


def test_a_reader_is_answered_and_may_not_command(path: str) -> None:
    with stage(path, permit=lambda peer: Access.READ) as it:
        for target in ("/status", "/metrics", "/version", "/events", "/rolls"):
            assert status_of(talk(path, get(target, "connection: close"))) == 200
        for target in ("/shutdown", "/reload", "/rollback", "/stop", "/start", "/restart", "/scale", "/signal"):
            answer = talk(path, post(target, b'{"target":"web"}', "connection: close"))
            assert status_of(answer) == 403
            assert b"may only read" in answer
        assert it.scene.calls == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("access", "status"), [(Access.READ, 403), (Access.FULL, 202)])
@pytest.mark.parametrize("supplementary", [False, True])
def test_a_real_member_of_the_group_gets_in_and_another_user_does_not(
    access: Access, status: int, supplementary: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, stage(f"{folder}/c.sock", permit(GROUP, access)) as it:
        os.chmod(folder, 0o755)
        os.chmod(it.path, 0o666)
        groups = (NOBODY, [GROUP]) if supplementary else (GROUP, [])
        assert asked_as(it.path, "GET", "/status", *groups)[0] == 200
        assert asked_as(it.path, "POST", "/stop", *groups)[0] == status
        refused = asked_as(it.path, "GET", "/status", NOBODY, [NOBODY])
        assert refused[0] == 403
        assert f"user {NOBODY} may not" in refused[1]


def asked_as(path: str, method: str, target: str, group: int, extra: list[int]) -> tuple[int, str]:
    command = ["curl", "-sS", "-w", "\n%{http_code}", "-X", method, "--unix-socket", path, f"http://.{target}"]
    if method == "POST":
        command += ["-d", json.dumps({"target": "web"})]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=10, user=NOBODY, group=group, extra_groups=extra
    )
    body, _, code = done.stdout.rpartition("\n")
    return int(code), body
