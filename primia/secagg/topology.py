"""Who holds shares of whose secrets, who masks with whom, and whose vectors are added up.

Everything follows from the session id, which hashes all signed keys, so that the coordinator
cannot place sites of its choice around a victim. Up to 100 sites everybody is everybody's
neighbour (Bonawitz et al., CCS 2017). Above, each site has `degree` neighbours, the nearest on a
ring in random order (Bell et al., "Secure single-server aggregation with (poly)logarithmic
overhead", CCS 2020, section 3.2): the same protocol with fewer pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from math import comb

from primia.secagg.keys import framed
from primia.types import SiteId

COMPLETE_UP_TO = 100
"""Below, a ring would spare half of the pairs at most, and add an assumption."""

COLLUDING, LOST = 0.2, 0.1
"""Shares of all sites that a ring withstands: siding with the coordinator, lost in one round."""

SECURITY_BITS = 64
"""A victim is badly placed with probability 2^-64. Of these, 24 bits pay for the attempts of a
coordinator that tries keys of its own sites until the ring suits it; 40 remain."""

FAILURE_BITS = 20
"""A round fails with probability 2^-20 because too many neighbours of one site were lost."""

_ORDER = b"primia secagg v2 ring order"


def threshold(sites: int) -> int:
    """Shares that open a secret which all of `sites` hold shares of: t = floor(2n/3) + 1.

    An honest site opens one kind of share per peer, a colluding one both. A victim is opened
    both ways only if 2t <= n + c, so this t covers c < n/3 colluding sites.
    """
    return 2 * sites // 3 + 1


@lru_cache
def ring(sites: int) -> tuple[int, int]:
    """(degree, threshold) for `sites` sites: the smallest even degree that withstands
    `COLLUDING` and `LOST`; all others and `threshold(sites)` where a ring spares nothing.

    But for the probabilities above, and over all sites together, with c of a site's k neighbours
    colluding and c' of the k / 2 on one side, the threshold t is such that

    * 2t > k + 1 + c + 2: no site is opened both ways, and of t holders that a site believes to
      mask with it, three honest ones are left when as many as possible are called lost;
    * t > k / 2 + 1 + c': two gaps of k / 2 sites, colluding or called lost, do not cut the ring,
      because the sites beside a gap cannot be opened (each gap with half of the bits);
    * t of the k + 1 holders are left when no more than `LOST` of all sites are lost.
    """
    if sites <= COMPLETE_UP_TO:
        return sites - 1, threshold(sites)
    colluding, lost = int(COLLUDING * sites), int(LOST * sites)
    for degree in range(2, sites - 1, 2):
        around = _quantile(sites - 1, colluding, degree, SECURITY_BITS, sites)
        beside = _quantile(sites - 1, colluding, degree // 2, SECURITY_BITS // 2, sites)
        t = max((degree + 1 + around) // 2 + 2, degree // 2 + 2 + beside)
        if t <= degree + 1 - _quantile(sites - 1, lost, degree, FAILURE_BITS, sites):
            return degree, t
    return sites - 1, threshold(sites)


def _quantile(population: int, marked: int, drawn: int, bits: int, union: int) -> int:
    """The smallest x with P(more than x marked among `drawn`) <= 2^-bits / union, exactly.

    Hypergeometric: neighbours are drawn from all other sites without replacement.
    """
    allowed = comb(population, drawn) // (union << bits)
    tail = 0
    for x in range(min(marked, drawn), -1, -1):
        tail += comb(marked, x) * comb(population - marked, drawn - x)
        if tail > allowed:
            return x
    return 0


@dataclass(frozen=True)
class Topology:
    """The graph of one session, the same for whoever computes it.

    sites: those that advertised keys, sorted. groups: how many sums are made; each site masks
    with its own group alone, while shares are held as ever.
    """

    session: bytes
    sites: tuple[SiteId, ...]
    group_count: int = 1

    def __post_init__(self) -> None:
        if self.group_count > 1 and len(self.sites) > COMPLETE_UP_TO:
            raise ValueError(f"groups are for up to {COMPLETE_UP_TO} sites, not {len(self.sites)}")

    @property
    def threshold(self) -> int:
        """Shares that open one secret."""
        return ring(len(self.sites))[1]

    def holders(self, owner: SiteId) -> tuple[SiteId, ...]:
        """The sites that get shares of `owner`'s secrets, itself among them, sorted.

        Their order fixes the x of each share. The relation is mutual.
        """
        degree, _ = ring(len(self.sites))
        if degree == len(self.sites) - 1:
            return self.sites
        here = self._position[owner]
        return tuple(sorted(self._at(here + step) for step in _around(degree)))

    def partners(self, site: SiteId) -> tuple[SiteId, ...]:
        """The sites that `site` shares a pair mask with; sorted, without itself."""
        among = self.holders(site) if self.group_count == 1 else self.groups[self.group_of(site)]
        return tuple(other for other in among if other != site)

    @cached_property
    def groups(self) -> tuple[tuple[SiteId, ...], ...]:
        """The sites of each sum, sorted: consecutive stretches of the ring, of nearly one size."""
        count, total = self.group_count, len(self.sites)
        bounds = [total * i // count for i in range(count + 1)]
        return tuple(tuple(sorted(self._order[a:b])) for a, b in pairwise(bounds))

    def group_of(self, site: SiteId) -> int:
        """Index of the group that `site` is in."""
        return self._group[site]

    def survivors_by_group(self, survivors: Collection[SiteId]) -> tuple[tuple[SiteId, ...], ...]:
        """`survivors` divided into the groups, each sorted."""
        arrived = set(survivors)
        return tuple(tuple(s for s in group if s in arrived) for group in self.groups)

    def short_group(self, survivors: Collection[SiteId]) -> tuple[SiteId, ...] | None:
        """What is left of the first group that lost too many; None where all sums may be made.

        Of a group of n, t(n) must be left: with fewer, colluding sites below a third of it could
        have all others called lost but one.
        """
        for group, left in zip(self.groups, self.survivors_by_group(survivors), strict=True):
            if len(left) < threshold(len(group)):
                return left
        return None

    @cached_property
    def _order(self) -> tuple[SiteId, ...]:
        def place(site: SiteId) -> bytes:
            return hashlib.sha256(framed(_ORDER, self.session, site.encode())).digest()

        return tuple(sorted(self.sites, key=place))

    @cached_property
    def _position(self) -> dict[SiteId, int]:
        return {site: i for i, site in enumerate(self._order)}

    @cached_property
    def _group(self) -> dict[SiteId, int]:
        return {site: i for i, group in enumerate(self.groups) for site in group}

    def _at(self, position: int) -> SiteId:
        return self._order[position % len(self._order)]


def _around(degree: int) -> Iterator[int]:
    return iter(range(-(degree // 2), degree // 2 + 1))
