"""The book of rolls: every request once in its ledger, whoever leaves, dies, or is still at it at the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervisor.kernel.board import Cell, Row, private_row
from supervisor.master.accounts import Accounts
from supervisor.master.book import REMEMBERED, Book
from supervisor.master.worker import Worker
from supervisor.reload import records as rolls


@dataclass(eq=False)
class Hand:
    """What the book sees of a worker: its row, and whether it is leaving."""

    number: int
    generation: int
    row: Row = field(default_factory=private_row)
    is_leaving: bool = False

    @property
    def inflight(self) -> int:
        return self.row[Cell.STARTED] - self.row[Cell.FINISHED] - self.row[Cell.CUT]


class Shop:
    """An app's accounts, its book, and its living workers."""

    def __init__(self) -> None:
        self.accounts = Accounts()
        self.book = Book(self.accounts)
        self.hands: list[Hand] = []
        self.hired = 0

    @property
    def living(self) -> list[Worker]:
        return cast("list[Worker]", self.hands)

    def hire(self, generation: int = 1) -> Hand:
        self.hired += 1
        self.hands.append(Hand(self.hired, generation))
        return self.hands[-1]

    def bury(self, hand: Hand) -> None:
        """As the master does it: folded first, then told to the book."""
        self.hands.remove(hand)
        self.accounts.fold(cast(Worker, hand))
        self.book.ended(cast(Worker, hand))


def counted(hand: Hand, cell: Cell, times: int = 1) -> None:
    hand.row[cell] += times


def test_what_was_before_the_roll_is_not_in_its_ledger_but_what_was_under_way_is() -> None:
    shop = Shop()
    hand = shop.hire()
    counted(hand, Cell.STARTED, 10)
    counted(hand, Cell.FINISHED, 8)
    shop.book.begin(rolls.Started(1, 2), shop.living)
    counted(hand, Cell.FINISHED)
    roll = shop.book.last(shop.living)
    assert roll is not None
    assert (roll.ledger.accepted, roll.ledger.completed, roll.ledger.under_way) == (2, 1, 1)
    assert (roll.verdict, roll.number, roll.from_, roll.to) == ("running", 1, 1, 2)


def test_requests_in_a_leaving_worker_are_followed_past_the_verdict_and_those_in_others_are_not() -> None:
    shop = Shop()
    old, new = shop.hire(1), shop.hire(2)
    shop.book.begin(rolls.Started(1, 2), shop.living)
    for hand in (old, new):
        counted(hand, Cell.STARTED, 3)
    old.is_leaving = True
    shop.book.end(rolls.Committed(1, 2, 1.5), shop.living)
    counted(new, Cell.FINISHED, 3)
    counted(old, Cell.FINISHED)
    counted(old, Cell.CUT)
    shop.bury(old)
    roll = shop.book.last(shop.living)
    assert roll is not None
    ledger = roll.ledger
    assert (ledger.completed, ledger.cut, ledger.reset, ledger.under_way, ledger.accepted) == (1, 1, 1, 0, 3)
    assert (roll.verdict, roll.seconds) == ("committed", 1.5)


def test_a_superseded_roll_is_rolled_back_and_says_by_whom() -> None:
    shop = Shop()
    shop.book.begin(rolls.Started(1, 2), shop.living)
    shop.book.end(rolls.Superseded(1, 2, 3, 0.1), shop.living)
    shop.book.begin(rolls.Started(1, 3), shop.living)
    shop.book.end(rolls.RolledBack(1, 3, 0.2, "it broke"), shop.living)
    assert [(roll.number, roll.verdict, roll.reason) for roll in shop.book.all(shop.living)] == [
        (1, "rolled_back", "superseded by generation 3"),
        (2, "rolled_back", "it broke"),
    ]
    totals = shop.book.totals(shop.living)
    assert (totals.committed, totals.rolled_back) == (0, 2)


def test_twenty_rolls_are_remembered_and_all_are_counted() -> None:
    shop = Shop()
    for number in range(30):
        shop.book.begin(rolls.Started(number, number + 1), shop.living)
        shop.book.end(rolls.Committed(number, number + 1, 0.0), shop.living)
    assert [roll.number for roll in shop.book.all(shop.living)] == list(range(31 - REMEMBERED, 31))
    assert shop.book.totals(shop.living).committed == 30


class Trade(RuleBasedStateMachine):
    """Workers come, take, answer, leave and die in any order, in rolls that follow one another at once."""

    def __init__(self) -> None:
        super().__init__()
        self.shop = Shop()
        self.taken = self.done = 0
        self.is_rolling = False

    @rule(generation=st.integers(1, 2))
    def somebody_comes(self, generation: int) -> None:
        self.shop.hire(generation)

    @precondition(lambda self: self.shop.hands)
    @rule(data=st.data(), times=st.integers(1, 5))
    def requests_are_taken(self, data: st.DataObject, times: int) -> None:
        counted(data.draw(st.sampled_from(self.shop.hands)), Cell.STARTED, times)
        self.taken += times

    @precondition(lambda self: any(hand.inflight for hand in self.shop.hands))
    @rule(data=st.data(), cell=st.sampled_from([Cell.FINISHED, Cell.CUT]))
    def one_is_done_with(self, data: st.DataObject, cell: Cell) -> None:
        counted(data.draw(st.sampled_from([hand for hand in self.shop.hands if hand.inflight])), cell)

    @precondition(lambda self: self.shop.hands)
    @rule(data=st.data())
    def somebody_is_to_leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.shop.hands)).is_leaving = True

    @precondition(lambda self: self.shop.hands)
    @rule(data=st.data())
    def somebody_dies(self, data: st.DataObject) -> None:
        self.shop.bury(data.draw(st.sampled_from(self.shop.hands)))

    @rule()
    def a_roll_begins_or_ends(self) -> None:
        if self.is_rolling:
            self.shop.book.end(rolls.Committed(1, 2, 1.0), self.shop.living)
        else:
            self.shop.book.begin(rolls.Started(1, 2), self.shop.living)
        self.is_rolling = not self.is_rolling

    @invariant()
    def no_ledger_has_a_debt_and_each_adds_up(self) -> None:
        for roll in self.shop.book.all(self.shop.living):
            ledger = roll.ledger
            parts = (ledger.completed, ledger.cut, ledger.reset, ledger.under_way)
            assert min(parts) >= 0
            assert ledger.accepted == sum(parts)

    @invariant()
    def the_totals_know_every_request_that_was_ever_taken(self) -> None:
        counts = self.shop.accounts.all(self.shop.living)
        under_way = sum(hand.inflight for hand in self.shop.hands)
        assert counts.requests == self.taken == counts.completed + counts.cut + counts.reset + under_way


TestTrade = Trade.TestCase
