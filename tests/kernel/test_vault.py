"""Descriptors in a vault outlive whoever put them in, and there is no moment without them."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.kernel.vault import Vault


@pytest.fixture
def vault() -> Iterator[Vault]:
    it = Vault.empty()
    yield it
    it.close()


def take_over(vault: Vault) -> tuple[Vault, dict[int, int]]:
    """What a process finds that has nothing but the taking end."""
    other = Vault(socket.socket(), vault.take.dup())
    return other, other.look()


def same(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


def pipes(count: int) -> list[int]:
    return [fd for _ in range(count) for fd in os.pipe()]


def close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def test_what_is_kept_is_found_by_its_token_by_who_has_the_taking_end(vault: Vault) -> None:
    fds = pipes(2)
    vault.keep(fds)
    other, found = take_over(vault)
    assert set(found) == set(vault.tokens.values())
    assert all(same(found[token], fd) for fd, token in vault.tokens.items())
    assert all(not os.get_inheritable(fd) for fd in found.values())
    close([*fds, *found.values()])
    other.close()


def test_looking_takes_nothing_out(vault: Vault) -> None:
    fds = pipes(1)
    vault.keep(fds)
    for _ in range(3):
        other, found = take_over(vault)
        assert len(found) == 2
        close(list(found.values()))
        other.close()
    close(fds)


def test_it_outlives_the_death_of_who_opened_it_all() -> None:
    vault = Vault.empty()
    pid = os.fork()
    if pid == 0:
        read, write = os.pipe()
        os.write(write, b"from the dead")
        vault.keep([read, write])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    found = vault.look()
    read, write = (found[token] for token in sorted(found))
    assert os.read(read, 100) == b"from the dead"
    close([read, write])
    vault.close()


def test_what_is_kept_no_more_is_closed_and_the_rest_stays(vault: Vault) -> None:
    (read, write), others = os.pipe(), pipes(1)
    vault.keep([read, write, *others])
    os.close(write)
    assert os.get_blocking(read)
    vault.keep([read, *others])
    assert os.read(read, 1) == b""  # the last who could write to it is gone
    other, found = take_over(vault)
    assert sorted(found) == sorted(vault.tokens.values())
    close([read, *others, *found.values()])
    other.close()


def test_a_number_that_means_another_file_now_has_another_token(vault: Vault) -> None:
    read, write = os.pipe()
    vault.keep([read, write])
    before = vault.tokens[read]
    os.dup2(write, read)
    vault.keep([read, write])
    assert vault.tokens[read] == before or vault.tokens[read] != vault.tokens[write]
    fresh = os.open(os.devnull, os.O_RDONLY)
    os.dup2(fresh, read)
    vault.keep([read, write])
    assert vault.tokens[read] != before
    other, found = take_over(vault)
    assert same(found[vault.tokens[read]], fresh)
    close([read, write, fresh, *found.values()])
    other.close()


def test_who_has_been_closed_since_has_no_token_nor_has_what_took_the_number(vault: Vault) -> None:
    gone, reused, *others = pipes(2)
    vault.keep([gone, reused, *others])
    fresh = os.open(os.devnull, os.O_RDONLY)
    os.dup2(fresh, reused)
    os.close(gone)
    assert vault.tokens.keys() == set(others)
    close([fresh, reused, *others])


def test_another_owner_goes_on_where_the_first_has_been(vault: Vault) -> None:
    fds = pipes(2)
    vault.keep([*fds, vault.give.fileno()])
    names = dict(vault.tokens)
    other, found = take_over(vault)
    other.give.close()
    heir = Vault(socket.socket(fileno=found[names[vault.give.fileno()]]), other.take)
    again = heir.look()
    close(list(again.values()))
    mine = {found[names[fd]]: names[fd] for fd in fds}
    heir.resume({**mine, heir.give.fileno(): names[vault.give.fileno()]})
    more = pipes(1)
    heir.keep([*list(mine)[:2], heir.give.fileno(), *more])
    third, seen = take_over(vault)
    assert sorted(seen) == sorted(heir.tokens.values())
    assert len(set(heir.tokens.values())) == 5
    close([*fds, *mine, *more, *seen.values()])
    third.close()
    heir.close()


def test_a_thousand_descriptors_have_room(vault: Vault) -> None:
    fds = [os.dup(0) for _ in range(900)]
    vault.keep(fds)
    vault.keep(fds[::2])
    other, found = take_over(vault)
    assert len(found) == 450
    close([*fds, *found.values()])
    other.close()


@settings(max_examples=50)
@given(st.lists(st.sets(st.integers(0, 30)), max_size=8))
def test_after_any_changes_exactly_what_was_last_asked_for_is_there(steps: list[set[int]]) -> None:
    vault, fds = Vault.empty(), pipes(16)
    for step in steps:
        vault.keep([fds[at] for at in step])
    other, found = take_over(vault)
    wanted = steps[-1] if steps else set()
    assert sorted(found) == sorted(vault.tokens.values())
    assert {fds[at] for at in wanted} == set(vault.tokens)
    assert all(same(found[token], fd) for fd, token in vault.tokens.items())
    close([*fds, *found.values()])
    other.close()
    vault.close()
