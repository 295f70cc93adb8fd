"""The soft limit on descriptors is raised as far as is allowed and sensible; each case in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from supervisor.kernel.descriptors import MOST

HARD = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], MOST)


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [(64, 512, 512), (512, 512, 512), (64, HARD, HARD)],
)
def test_the_soft_limit_becomes_the_hard_one(soft: int, hard: int, raised: int) -> None:
    code = (
        "import resource, sys\n"
        "from supervisor.kernel.descriptors import raise_descriptor_limit\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(raised), str(raised), str(hard)]


def test_a_limit_beyond_all_need_is_not_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor.kernel import descriptors

    limits = [(1024, resource.RLIM_INFINITY)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    assert descriptors.raise_descriptor_limit() == MOST
    assert limits[-1] == (MOST, resource.RLIM_INFINITY)
    limits[-1] = (2 * MOST, 2**30)
    assert descriptors.raise_descriptor_limit() == 2 * MOST
    assert limits[-1] == (2 * MOST, 2**30)
