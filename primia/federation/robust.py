"""Against a site that poisons within its mask: votes on the model, and a mean that trims.

No single update is ever seen, so both work on sums: the sites vote on the model that a sum made
(after BaFFLe, Andreina et al., ICDCS 2021), and of several group sums the outermost are left out
(Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018, with groups in place of workers).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from primia.errors import RoundFailed
from primia.federation.contribution import Aggregate, Contribution
from primia.types import Ring, SiteId

_CHUNK = 1 << 16  # coordinates sorted at a time: a copy of all groups' means would double them


def has_majority(votes: int, contributors: int) -> bool:
    """Whether more than half of the contributors accept; half of them is no majority."""
    return 2 * votes > contributors


def trimmed_groups(groups: int) -> int:
    """How many group means are left out at each end: a quarter of the others, at least one.

    So many groups may hold a poisoned update; each of them may hold any number.
    """
    return max(1, (groups - 1) // 4)


def trimmed_mean(means: npt.NDArray[np.floating], trim: int) -> npt.NDArray[np.float64]:
    """The mean of each coordinate without its `trim` smallest and largest values.

    means: (groups, d), finite. Returns (d,); with at most `trim` poisoned groups each coordinate
    lies within the range of the honest ones (Yin et al., Definition 2, with β = trim / groups).
    Raises ValueError when trimming leaves nothing.
    """
    groups, length = means.shape
    if trim < 0 or 2 * trim >= groups:
        raise ValueError(f"trim {trim} at each end leaves nothing of {groups} groups")
    out = np.empty(length)
    for start in range(0, length, _CHUNK):
        ordered = np.sort(means[:, start : start + _CHUNK], axis=0)
        out[start : start + _CHUNK] = ordered[trim : groups - trim].mean(axis=0, dtype=np.float64)
    return out


def decode_groups(
    contribution: Contribution,
    totals: Sequence[Ring],
    groups: Sequence[Sequence[SiteId]],
) -> Aggregate:
    """One aggregate of the plain sums of all groups.

    Raises RoundFailed as `Contribution.decode`, naming the group, for nobody knows the site.
    """
    parts = []
    for total, group in zip(totals, groups, strict=True):
        try:
            parts.append(contribution.decode(total, contributors=len(group)))
        except RoundFailed as err:
            raise RoundFailed(f"{err} (sum of {', '.join(group)})") from err
    return combine(parts)


def combine(parts: Sequence[Aggregate]) -> Aggregate:
    """One aggregate of all groups: update by trimmed mean, everything counted by sum.

    Each group counts alike in the mean, whatever the weights within it. One group is the rule, and
    is passed on as it is.
    """
    if len(parts) == 1:
        return parts[0]
    means = np.stack([p.mean_update for p in parts])
    return Aggregate(
        mean_update=trimmed_mean(means, trimmed_groups(len(parts))),
        weight=sum(p.weight for p in parts),
        metrics=np.sum([p.metrics for p in parts], axis=0, dtype=np.int64),
        votes=sum(p.votes for p in parts),
    )
