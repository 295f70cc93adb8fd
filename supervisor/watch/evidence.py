"""Whether a new release answers with errors more often than the old one: a test fit for looking all the time. Pure.

Each answer of the old release is taken to be an error with some unknown chance, each of the new one with another. The
evidence against "the new one's chance is not higher" is a ratio of likelihoods: of what was seen, with both chances
left open (Jeffreys' prior), to what was seen, with the two chances under which it is likeliest although the new one's
is not higher. Sources: "universal inference" (Wasserman, Ramdas, Balakrishnan, PNAS 117 (2020), 16880-16890); the
mixture is that of Krichevsky and Trofimov (IEEE Trans. Inf. Theory 27 (1981), 199-207).

Invariant: for releases that are equally good the ratio is at every moment below a martingale that starts at 1. By
Ville's inequality the chance that it *ever* reaches 1 / ALPHA is therefore at most ALPHA, however often somebody looks
and whenever they stop. What counts is the sums alone, so looking at each answer or at each hundredth is the same test.
"""

from __future__ import annotations

import math

from msgspec import Struct

ALPHA = 0.001  # the chance that a roll to a release as good as the old one is given up for its errors
FEWEST_ERRORS = 3  # one or two prove nothing, however many good answers the old release has given
ENOUGH = 20  # answers of the old release; if it gave fewer meanwhile, earlier ones stand in for the rest


class Answers(Struct, frozen=True):
    """How many answers there were, and how many of them were errors."""

    total: float = 0
    errors: float = 0

    def __sub__(self, earlier: Answers) -> Answers:
        return Answers(self.total - earlier.total, self.errors - earlier.errors)

    def __add__(self, more: Answers) -> Answers:
        return Answers(self.total + more.total, self.errors + more.errors)


def is_worse(new: Answers, old: Answers, earlier: Answers) -> bool:
    """Whether `new` has shown itself to be worse than `old`, both counted since the new release began to serve.

    `earlier` is what the old release had answered before that. Where it has nothing to tell either, the old release
    is taken to have given 20 good answers: a release that answers only with errors needs nobody to compare it with.
    """
    return new.errors >= FEWEST_ERRORS and evidence(new, reference(old, earlier)) >= math.log(1 / ALPHA)


def reference(old: Answers, earlier: Answers) -> Answers:
    """The old release's answers, filled up to `ENOUGH` at its earlier rate of errors."""
    missing = max(0.0, ENOUGH - old.total)
    return old + Answers(missing, missing * (earlier.errors / earlier.total if earlier.total else 0.0))


def evidence(new: Answers, old: Answers) -> float:
    """The logarithm of the ratio: above 0 speaks against the new release."""
    seen = _open(new) + _open(old)
    if new.errors * old.total <= old.errors * new.total:
        return seen - _best(new) - _best(old)
    return seen - _best(new + old)


def _open(answers: Answers) -> float:
    """The log-likelihood when any chance may be true: Beta(1/2, 1/2) over it."""
    good = answers.total - answers.errors
    return (
        math.lgamma(answers.errors + 0.5) + math.lgamma(good + 0.5) - math.lgamma(answers.total + 1) - math.log(math.pi)
    )


def _best(answers: Answers) -> float:
    """The log-likelihood under the chance that fits best."""
    good = answers.total - answers.errors
    return sum(part * math.log(part / answers.total) for part in (answers.errors, good) if part > 0)
