"""What a lying coordinator can work out: the plain sum of any set of sites, if its masks fall.

It keeps every upload by itself instead of adding it, takes all that sites reveal, and has friends
among the sites that hand over all they hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from in_memory_round import World

from primia.errors import PeerError, PolicyRefused, RoundFailed
from primia.protocol.messages import RevealedShares, SendMasked
from primia.secagg import keys, shares, topology
from primia.secagg.layout import Vector
from primia.secagg.masks import Mask, apply_masks, pair_mask
from primia.types import Ring, SiteId


@contextmanager
def small_ring(degree: int = 4, threshold: int = 4) -> Iterator[None]:
    """The graph of large studies, in a study of a few sites."""

    def ring(sites: int) -> tuple[int, int]:
        if sites <= degree + 1:
            return sites - 1, topology.threshold(sites)
        return degree, threshold

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topology, "ring", ring)
        yield


def without(instruction: SendMasked, gone: Collection[SiteId]) -> SendMasked:
    """The same instruction, as if these sites had not shared."""
    return replace(
        instruction,
        among=tuple(s for s in instruction.among if s not in gone),
        sealed={s: c for s, c in instruction.sealed.items() if s not in gone},
    )


class Thief:
    """Made when a world stands before Reveal; from then on it holds what it will ever hold."""

    def __init__(self, world: World, friends: Collection[SiteId] = ()) -> None:
        self.world = world
        self.friends = {f: world.members[f].machine._secrets for f in friends}
        for site in world.names:
            instruction = world.coordinator.instruction_for(site)
            if instruction is not None:
                try:
                    world.members[site].instruct(instruction)
                except (PeerError, PolicyRefused):
                    continue
        self.graph = next(
            m.machine._topology for m in world.members.values() if m.machine._topology
        )
        self.secrets = {
            (kind, owner): self._rebuild(kind, owner)
            for kind in ("self_seeds", "mask_keys")
            for owner in self.graph.sites
        }

    def opens(self, targets: Collection[SiteId]) -> bool:
        """Whether no mask is left on the sum of these sites' vectors."""
        return all(self.world.members[s].uploads for s in targets) and all(
            key is not None for vector in self.world.layout.vectors
            for key, _, _ in self._masks(targets, vector)
        )  # fmt: skip

    def smallest(self) -> int:
        """How few sites' vectors can be had as a plain sum; more than there are for none."""
        sites = self.graph.sites
        for size in range(1, len(sites) + 1):
            if any(self.opens(chosen) for chosen in combinations(sites, size)):
                return size
        return len(sites) + 1

    def sum_of(self, targets: Collection[SiteId]) -> Ring:
        """The sum of the targets' vectors, less every mask that is known."""
        layout = self.world.layout
        total = np.sum([self.world.members[s].uploads[0] for s in targets], axis=0, dtype=np.uint32)
        for vector in layout.vectors:
            masks = [
                (Mask(key) if peer is None else pair_mask(key, me=me, peer=peer)).inverted()
                for key, me, peer in self._masks(targets, vector)
                if key is not None
            ]
            part = total[layout.slice(vector.name)]
            apply_masks(part, masks, cipher=self.world.cipher)
            part &= np.uint32(2**vector.bits - 1)
        return total

    def _masks(
        self, targets: Collection[SiteId], vector: Vector
    ) -> Iterator[tuple[bytes | None, SiteId, SiteId | None]]:
        """(key, who applied it, with whom) of each mask on the sum; None for an unknown key."""
        about = {"session": self.graph.session, "vector": vector, "cipher": self.world.cipher}
        for me in targets:
            seed = self.secrets["self_seeds", me]
            yield seed and keys.self_mask_key(seed, owner=me, **about), me, None
            for peer in self._partners(me):
                if peer in targets and me in self._partners(peer):
                    continue  # cancels
                secret = self._agreed(me, peer)
                yield secret and keys.pair_mask_key(secret, one=me, other=peer, **about), me, peer

    def _partners(self, site: SiteId) -> set[SiteId]:
        told = self.world.members[site].machine._masked_among
        return set(self.graph.partners(site)) & set(told)

    def _agreed(self, one: SiteId, other: SiteId) -> bytes | None:
        for owner, peer in ((one, other), (other, one)):
            private = self.secrets["mask_keys", owner]
            if private is not None:
                return keys.agree(private, self.world.coordinator._adverts[peer].mask_key)
        return None

    def _rebuild(self, kind: str, owner: SiteId) -> bytes | None:
        if owner in self.friends:
            own = self.friends[owner]
            return own.self_seed if kind == "self_seeds" else own.mask.private
        given: dict[SiteId, bytes] = {}
        for site, member in self.world.members.items():
            for answer in member.sent:
                if isinstance(answer, RevealedShares) and owner in getattr(answer, kind):
                    given[site] = getattr(answer, kind)[owner]
        for friend, secrets in self.friends.items():
            if owner in secrets.held:
                pair = secrets.held[owner]
                given[friend] = pair.self_seed if kind == "self_seeds" else pair.mask_key
        position = {site: x for x, site in enumerate(self.graph.holders(owner), start=1)}
        advert = self.world.coordinator._adverts[owner]
        try:
            return shares.recover(
                {position[s]: share for s, share in given.items()},
                threshold=self.graph.threshold,
                accept=lambda found: (
                    keys.opens_commitment(found, advert.seed_commitment, owner=owner)
                    if kind == "self_seeds"
                    else keys.matches(found, advert.mask_key)
                ),
            )[0]
        except RoundFailed:
            return None
