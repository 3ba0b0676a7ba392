"""A secret vote whose sum shows a voter that cheats.

With one number for a vote, a voter could write -4 or +9 into it: under the mask nobody sees, and
the sum stays plausible. So a ballot has many slots for each answer, and a voter puts a single 1
into one that it draws. The sum tells how many ones lie with each answer, and of nobody where. To
take away another's vote is to guess its slot; a miss leaves a negative slot, or a mark too many.
(Random slots in a hidden sum as in Riposte: Corrigan-Gibbs, Boneh, Mazières, S&P 2015.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from primia.errors import RoundFailed

SLOTS = 1024
"""For each answer. One vote of n others is stolen unseen with a chance of at most n / 1024."""

LENGTH = 2 * SLOTS
"""Of a ballot: the slots of yes, then those of no."""


def cast(vote: bool, entropy: Callable[[int], bytes]) -> npt.NDArray[np.int64]:
    """A ballot, (LENGTH,), zeros and a single 1. entropy(count) gives uniform bytes."""
    slot = int.from_bytes(entropy(2), "big") % SLOTS  # SLOTS divides 2^16: no slot is likelier
    ballot = np.zeros(LENGTH, np.int64)
    ballot[slot if vote else SLOTS + slot] = 1
    return ballot


def tally(total: npt.NDArray[np.int64], contributors: int) -> int:
    """How many of the contributors voted yes. total: (LENGTH,), the sum of their ballots.

    Raises RoundFailed when honest ballots cannot add up to it.
    """
    if total.min() < 0 or total.max() > contributors or total.sum() != contributors:
        raise RoundFailed(
            f"the ballots of {contributors} sites do not add up to {contributors} votes; a site "
            "voted more than once or against another's vote"
        )
    return int(total[:SLOTS].sum())
