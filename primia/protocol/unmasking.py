"""The coordinator's last step: rebuild the opened secrets, check each, take the masks off."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from primia.errors import RoundFailed
from primia.protocol.messages import KeyAdvert, RevealedShares
from primia.secagg import keys, shares
from primia.secagg.layout import Layout, Vector
from primia.secagg.masks import Mask, apply_masks, pair_mask
from primia.secagg.topology import Topology
from primia.types import Ring, SiteId


@dataclass(frozen=True)
class MaskedSums:
    """Sums that still carry masks, and what is publicly known about them.

    totals: one for each group of `topology`, the masked words of its survivors added up; uint32,
        shape (layout.length,); unmasked in place.
    adverts: every site that holds shares.
    masked_among: the sites that masked for each other; `survivors` are those that arrived.
    """

    totals: tuple[Ring, ...]
    layout: Layout
    topology: Topology
    adverts: Mapping[SiteId, KeyAdvert]
    masked_among: Collection[SiteId]
    survivors: Collection[SiteId]
    cipher: str = "aes-256-ctr"

    @property
    def lost(self) -> list[SiteId]:
        """Sites that others masked for, but whose own vector never came."""
        return sorted(set(self.masked_among) - set(self.survivors))


def unmask(
    masked: MaskedSums, revealed: Mapping[SiteId, RevealedShares], *, threads: int = 1
) -> frozenset[SiteId]:
    """Turn `masked.totals` into the plain sums; returns the sites whose shares were wrong.

    Raises RoundFailed, with the totals untouched, when a secret cannot be rebuilt or does not
    belong to what its owner advertised: a wrong share never gives a wrong sum.
    """
    wrong: set[SiteId] = set()
    seeds, pairs = {}, {}
    for owner in sorted(masked.survivors):
        given = {s: r.self_seeds[owner] for s, r in revealed.items() if owner in r.self_seeds}
        seeds[owner] = _rebuild(masked, owner, "self seed", given, _opens_commitment, wrong)
    for owner in masked.lost:
        given = {s: r.mask_keys[owner] for s, r in revealed.items() if owner in r.mask_keys}
        private = _rebuild(masked, owner, "mask key", given, _is_key, wrong)
        pairs[owner] = _pair_secrets(masked, owner, private)
    groups = masked.topology.survivors_by_group(masked.survivors)
    for group, total in zip(groups, masked.totals, strict=True):
        for vector in masked.layout.vectors:
            applied = _masks(masked, frozenset(group), vector, seeds, pairs)
            part = total[masked.layout.slice(vector.name)]
            apply_masks(
                part,
                [mask.inverted() for mask in applied],
                cipher=masked.cipher,
                threads=threads,
            )
            if vector.bits < 32:
                np.bitwise_and(part, (1 << vector.bits) - 1, out=part)
    return frozenset(wrong)


Check = Callable[[KeyAdvert, bytes], bool]


def _opens_commitment(advert: KeyAdvert, seed: bytes) -> bool:
    return keys.opens_commitment(seed, advert.seed_commitment, owner=advert.site)


def _is_key(advert: KeyAdvert, private: bytes) -> bool:
    return keys.matches(private, advert.mask_key)


def _rebuild(
    masked: MaskedSums,
    owner: SiteId,
    what: str,
    given: Mapping[SiteId, bytes],
    right: Check,
    wrong: set[SiteId],
) -> bytes:
    """One secret of `owner` from the shares `given`; adds who gave a wrong one to `wrong`."""
    advert, holders = masked.adverts[owner], masked.topology.holders(owner)
    position = {site: x for x, site in enumerate(holders, start=1)}
    try:
        secret, bad = shares.recover(
            {position[site]: share for site, share in given.items()},
            threshold=masked.topology.threshold,
            accept=lambda found: right(advert, found),
        )
    except RoundFailed as err:
        raise RoundFailed(f"{what} of {owner}: {err}") from err
    wrong |= {holders[x - 1] for x in bad}
    return secret


def _pair_secrets(masked: MaskedSums, lost: SiteId, private: bytes) -> dict[SiteId, bytes]:
    """What the lost site shared with each survivor that masked with it."""
    partners = set(masked.topology.partners(lost)) & set(masked.survivors)
    pair = keys.key_pair(private)
    return {p: pair.agree(masked.adverts[p].mask_key) for p in sorted(partners)}


def _masks(
    masked: MaskedSums,
    group: Collection[SiteId],
    vector: Vector,
    seeds: Mapping[SiteId, bytes],
    pairs: Mapping[SiteId, Mapping[SiteId, bytes]],
) -> Iterator[Mask]:
    """What still lies on one vector of a group's sum: own masks, and those for lost partners."""
    session, cipher = masked.topology.session, masked.cipher
    for owner in group:
        yield Mask(
            keys.self_mask_key(
                seeds[owner], session=session, owner=owner, vector=vector, cipher=cipher
            )
        )
    for lost, secrets in pairs.items():
        for survivor, secret in secrets.items():
            if survivor in group:
                key = keys.pair_mask_key(
                    secret, session=session, one=survivor, other=lost, vector=vector, cipher=cipher
                )
                yield pair_mask(key, me=survivor, peer=lost)
