"""The master's record: an earlier version's is read, a later one's is refused, nonsense is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import ProtocolError
from supervisor.master import record

RECORDED = (Path(__file__).parent / "record-1.msgpack").read_bytes()  # by holdfast 0.1.0, of a cluster at work


def test_what_the_first_version_wrote_is_read_for_ever() -> None:
    kept = record.decode(RECORDED)
    (app,) = kept.apps
    assert (kept.version, kept.holdfast) == (1, "0.1.0")
    assert (app.generation, app.count, app.held, app.roll.base) == (2, 3, (2,), 2)
    assert {(it.slot, it.generation, it.is_admitted) for it in app.workers} == {(1, 2, True), (3, 2, True)}
    assert app.rollout.previous == 1
    assert [roll.status.verdict for roll in app.book.rolls] == ["committed"]
    assert {release.generation: release.spawner is not None for release in app.releases} == {1: True, 2: True}
    assert kept.own is not None
    assert "roll.committed" in [event.name for event in kept.own.events]


def test_what_is_written_is_read_as_it_was() -> None:
    kept = record.decode(RECORDED)
    assert record.decode(record.encode(kept)) == kept


def test_a_field_that_is_not_known_yet_is_no_obstacle() -> None:
    data: dict[str, Any] = msgspec.msgpack.decode(RECORDED, strict=False)
    data["from_the_future"] = {"a": 1}
    data["apps"][0]["workers"][0]["mood"] = "good"
    assert record.decode(msgspec.msgpack.encode(data)) == record.decode(RECORDED)


def test_a_newer_version_is_refused_with_the_reason() -> None:
    data = msgspec.msgpack.decode(RECORDED, strict=False) | {"version": record.VERSION + 1, "holdfast": "7.0"}
    with pytest.raises(ProtocolError, match=r"written by holdfast 7\.0.*can't take over from a newer one"):
        record.decode(msgspec.msgpack.encode(data))


def test_every_descriptor_that_is_named_crosses() -> None:
    kept = record.decode(RECORDED)
    (app,) = kept.apps
    spawners = [release.spawner for release in app.releases if release.spawner is not None]
    named = {app.board, app.relay.give, app.relay.take, *app.access.values(), *(each.fd for each in app.listeners)}
    children: list[record.Worker | record.Spawner] = [*app.workers, *spawners]
    for child in children:
        named |= {child.channel, child.pipes.stdout.fd, child.pipes.stderr.fd}
    assert kept.own is not None
    assert kept.own.clients is not None
    named |= {worker.stacks for worker in app.workers} | {kept.own.clients.listener, kept.own.clients.lock}
    assert record.all_descriptors(kept) == named
    assert all(fd > 2 for fd in named)


@given(
    st.binary(max_size=300) | st.integers(0, len(RECORDED) - 1).map(RECORDED.__getitem__).map(lambda it: bytes([it]))
)
def test_nonsense_is_an_error_and_no_crash(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        record.decode(data)


@given(st.integers(0, len(RECORDED) - 1), st.integers(0, 255))
def test_a_damaged_record_is_read_or_refused(at: int, byte: int) -> None:
    damaged = RECORDED[:at] + bytes([byte]) + RECORDED[at + 1 :]
    try:
        record.decode(damaged)
    except ProtocolError:
        return
