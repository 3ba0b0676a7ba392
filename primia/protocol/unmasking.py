"""The coordinator's last step: rebuild the opened secrets, check each, take the masks off."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from primia.errors import RoundFailed
from primia.protocol.messages import KeyAdvert, RevealedShares
from primia.protocol.session import VECTOR_NAME, threshold
from primia.secagg import keys, shares
from primia.secagg.masks import Mask, apply_masks, pair_mask
from primia.types import Ring, SiteId


@dataclass(frozen=True)
class MaskedSum:
    """A sum that still carries masks, and what is publicly known about them.

    total: sum of the masked vectors of `survivors`, uint32, shape (d,); unmasked in place.
    adverts: every site that holds shares; its sorted names fix the x of each share.
    masked_among: the sites that masked for each other; `survivors` are those that arrived.
    """

    session: bytes
    total: Ring
    adverts: Mapping[SiteId, KeyAdvert]
    masked_among: Collection[SiteId]
    survivors: Collection[SiteId]

    @property
    def lost(self) -> list[SiteId]:
        """Sites that others masked for, but whose own vector never came."""
        return sorted(set(self.masked_among) - set(self.survivors))


def unmask(masked: MaskedSum, revealed: Mapping[SiteId, RevealedShares]) -> frozenset[SiteId]:
    """Turn `masked.total` into the plain sum; returns the sites whose shares were wrong.

    Raises RoundFailed, with the total untouched, when a secret cannot be rebuilt or does not
    belong to what its owner advertised: a wrong share never gives a wrong sum.
    """
    position = {site: x for x, site in enumerate(sorted(masked.adverts), start=1)}
    site_at = {x: site for site, x in position.items()}
    t = threshold(len(masked.adverts))
    masks: list[Mask] = []
    wrong: set[SiteId] = set()
    for owner in sorted(masked.survivors):
        given = {position[s]: r.self_seeds[owner] for s, r in revealed.items()}
        seed, bad = _rebuild_self_seed(masked.adverts[owner], given, t)
        wrong |= {site_at[x] for x in bad}
        masks.append(_self_mask(masked, owner, seed))
    for owner in masked.lost:
        given = {position[s]: r.mask_keys[owner] for s, r in revealed.items()}
        private, bad = _rebuild_mask_key(masked.adverts[owner], given, t)
        wrong |= {site_at[x] for x in bad}
        masks.extend(_pair_masks(masked, owner, private))
    apply_masks(masked.total, (mask.inverted() for mask in masks))
    return frozenset(wrong)


def _rebuild_self_seed(
    advert: KeyAdvert, given: Mapping[int, bytes], t: int
) -> tuple[bytes, frozenset[int]]:
    def accept(seed: bytes) -> bool:
        return keys.opens_commitment(seed, advert.seed_commitment, owner=advert.site)

    try:
        return shares.recover(given, threshold=t, accept=accept)
    except RoundFailed as err:
        raise RoundFailed(f"self seed of {advert.site}: {err}") from err


def _rebuild_mask_key(
    advert: KeyAdvert, given: Mapping[int, bytes], t: int
) -> tuple[bytes, frozenset[int]]:
    def accept(private: bytes) -> bool:
        return keys.matches(private, advert.mask_key)

    try:
        return shares.recover(given, threshold=t, accept=accept)
    except RoundFailed as err:
        raise RoundFailed(f"mask key of {advert.site}: {err}") from err


def _self_mask(masked: MaskedSum, owner: SiteId, seed: bytes) -> Mask:
    return Mask(
        keys.self_mask_key(
            seed,
            session=masked.session,
            owner=owner,
            vector=VECTOR_NAME,
            length=masked.total.size,
        )
    )


def _pair_masks(masked: MaskedSum, lost: SiteId, private: bytes) -> Iterable[Mask]:
    """The masks that each survivor applied for the lost site."""
    for survivor in sorted(masked.survivors):
        key = keys.pair_mask_key(
            keys.agree(private, masked.adverts[survivor].mask_key),
            session=masked.session,
            one=survivor,
            other=lost,
            vector=VECTOR_NAME,
            length=masked.total.size,
        )
        yield pair_mask(key, me=survivor, peer=lost)
