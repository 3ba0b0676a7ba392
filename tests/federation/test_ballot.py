from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import RoundFailed
from primia.federation.ballot import LENGTH, SLOTS, cast, tally


def stream(label: int) -> Callable[[int], bytes]:
    calls = iter(range(1_000_000))
    return lambda n: hashlib.shake_256(f"{label}/{next(calls)}".encode()).digest(n)


@given(votes=st.lists(st.booleans(), min_size=3, max_size=40), seed=st.integers(0, 10**6))
def test_the_tally_is_the_number_of_yes(votes: list[bool], seed: int) -> None:
    entropy = stream(seed)
    total = sum(cast(v, entropy) for v in votes)
    assert tally(total, contributors=len(votes)) == sum(votes)


def test_slots_are_drawn_evenly_and_tell_nothing_but_the_answer() -> None:
    # Chi-square over 64 bins of 16 slots, 6,400 draws; 1e-6 false alarms at 137 (63 degrees).
    slots = [int(cast(vote, os.urandom).argmax()) for vote in [True] * 6400]
    assert max(slots) < SLOTS
    counts = np.bincount(np.array(slots) // 16, minlength=64)
    assert float(((counts - 100) ** 2 / 100).sum()) < 137
    biased = np.bincount((np.array(slots) // 16) & ~1, minlength=64)  # half the slots unused
    assert float(((biased - 100) ** 2 / 100).sum()) > 137


def forged(*marks: tuple[int, int]) -> np.ndarray:
    ballot = np.zeros(LENGTH, np.int64)
    for slot, mark in marks:
        ballot[slot] += mark
    return ballot


@pytest.mark.parametrize(
    "ballot",
    [
        forged((0, 5)),  # five times yes
        forged((0, -1)),
        forged((0, 1), (SLOTS, 1)),  # both answers
        forged(),  # none
        forged((SLOTS, 2), (0, -1)),  # no twice, and one yes taken from an empty slot
        forged((SLOTS, 5), (0, -1), (1, -1), (2, -1), (3, -1)),
    ],
)
def test_a_ballot_that_is_not_one_vote_is_seen_in_the_sum(ballot: np.ndarray) -> None:
    honest = sum(forged((slot, 1)) for slot in (700, 701, 702, 703))
    with pytest.raises(RoundFailed, match="voted more than once"):
        tally(honest + ballot, contributors=5)


def test_a_vote_is_stolen_only_by_guessing_its_slot() -> None:
    honest = sum(forged((slot, 1)) for slot in (700, 701, 702, 703))
    unseen = 0
    for guess in range(SLOTS):
        try:
            tally(honest + forged((guess, -1), (SLOTS, 2)), contributors=5)
        except RoundFailed:
            continue
        unseen += 1
    assert unseen == 4  # of 1024
