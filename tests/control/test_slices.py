from __future__ import annotations

from collections.abc import Iterator

import pytest

from supervisor.control.slices import SLICE, Slices


class Making:
    """Ten pieces of 10 bytes, each of which takes `seconds` to make."""

    def __init__(self, seconds: float) -> None:
        self.now = 0.0
        self.seconds = seconds

    def pieces(self) -> Iterator[bytes]:
        for number in range(10):
            self.now += self.seconds
            yield b"%010d" % number

    def slices(self) -> Slices:
        return Slices(self.pieces(), lambda: self.now)


WHOLE = b"".join(b"%010d" % number for number in range(10))


def test_what_is_quickly_made_is_taken_at_once() -> None:
    slices = Making(SLICE / 100).slices()
    assert slices.take() == WHOLE
    assert not slices


@pytest.mark.parametrize(("seconds", "most"), [(SLICE * 2, 1), (SLICE, 1), (SLICE * 0.4, 3)])
def test_a_take_ends_with_the_piece_in_which_its_time_does(seconds: float, most: int) -> None:
    making = Making(seconds)
    slices, taken = making.slices(), b""
    while slices:
        began = making.now
        taken += slices.take()
        assert making.now - began <= seconds * most + 1e-9
    assert taken == WHOLE


def test_a_take_ends_with_the_piece_that_fills_it() -> None:
    slices = Making(0.0).slices()
    assert [len(slices.take(25)) for _ in range(4)] == [30, 30, 30, 10]
    assert not slices
    assert slices.take() == b""


def test_nothing_to_make_is_over_at_the_first_look() -> None:
    slices = Slices(iter(()), lambda: 0.0)
    assert slices
    assert slices.take() == b""
    assert not slices
