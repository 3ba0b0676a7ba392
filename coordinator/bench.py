"""The round policy's fourth knob: a site that misses round after round is not waited for any more.

Decided from the record alone. A site on the bench is not invited, so that the others do not wait
out the grace for it; it is named in `status` and `why`, and nobody is dropped without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from coordinator.reasons import AWAY, BENCHED
from coordinator.rows import AttemptRow
from primia.types import SiteId


@dataclass(frozen=True)
class Benched:
    """A site on the bench. missed: numbers of the rounds, newest first.

    was_away: its worker was not heard of in any of them, so it is invited again once it is back.
    """

    site: SiteId
    missed: tuple[int, ...]
    was_away: bool

    @property
    def reason(self) -> str:
        """For the record."""
        return f"missed rounds {', '.join(map(str, sorted(self.missed)))}, and is not invited"


def bench(
    attempts: Sequence[AttemptRow],
    invited: Collection[SiteId],
    present: Collection[SiteId],
    *,
    quorum: int,
    most_missed: int,
    readmitted: Mapping[SiteId, int],
) -> tuple[Benched, ...]:
    """Sites of `invited` that the next round goes on without, by name.

    Those that were invited to the last `most_missed` committed rounds in a row and are in none of
    their sums. Nobody, when fewer than `quorum` would be left.
    readmitted: the last attempt at the time when a person let a site in again.
    """
    found = []
    for site in sorted(invited):
        missed = _missed_in_a_row(attempts, site, readmitted.get(site, 0))[:most_missed]
        if len(missed) < most_missed:
            continue
        was_away = all(code == AWAY for _, code in missed)
        if not (was_away and site in present):
            found.append(Benched(site, tuple(number for number, _ in missed), was_away))
    return tuple(found) if len(invited) - len(found) >= quorum else ()


def _missed_in_a_row(
    attempts: Sequence[AttemptRow], site: SiteId, after: int
) -> list[tuple[int, str]]:
    """(round, code), newest first; rounds that it was not invited to do not count."""
    missed = []
    for attempt in reversed(attempts):
        if attempt.outcome != "committed" or attempt.round.attempt <= after:
            continue
        if site in attempt.contributors:
            break
        missed += [
            (attempt.round.number, a.code)
            for a in attempt.absent
            if a.site == site and a.code != BENCHED
        ]
    return missed
