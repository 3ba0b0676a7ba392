"""The product's own masked aggregation, in memory, of any vectors: what a coordinator gets of them.

Keys, masks, signatures, shares and unmasking are those of a round (`primia.simulate.attempt`); a
coordinator's view of one site, the vector that it uploads, is kept beside the sum.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from primia.config.plan import StudyPlan, plan_digest
from primia.errors import RoundFailed
from primia.federation.contribution import Aggregate, Contribution, Entropy
from primia.protocol.events import RoundTerms
from primia.protocol.messages import RoundId, RoundKind
from primia.protocol.site import SiteRound
from primia.protocol.site_events import Command, SiteEvent, Upload
from primia.secagg import keys
from primia.secagg.layout import Vector
from primia.secagg.masks import Mask, apply_masks, pair_mask
from primia.simulate.attempt import Keys, Play
from primia.types import Digest, Ring, SiteId, site_id

SMALLEST = 3  # sites in a sum


@dataclass(frozen=True, eq=False)
class MaskedSum:
    """total: the sum as unmasked, in the ring; aggregate: as decoded, checks and all.

    uploads: each site's vector as the coordinator received it, in the order of the vectors.
    under_pair_masks, under_own_mask: the first site's vector less its own mask, which the
    coordinator learns, and less those that it shares with others, which it learns of a lost site.
    """

    total: Ring
    aggregate: Aggregate
    uploads: tuple[Ring, ...]
    under_pair_masks: Ring
    under_own_mask: Ring


def masked_sum(
    plan: StudyPlan,
    fixed: Contribution,
    vectors: Sequence[Ring],
    *,
    entropy: Entropy = os.urandom,
) -> MaskedSum:
    """Play one round of as many made-up sites as there are vectors, each with one of them.

    vectors: as `fixed.encode` makes them, at least 3; they are left as they are. All sites are in
    one sum, whatever the plan's groups.
    Raises RoundFailed when the round does not commit, or its sum is discarded.
    """
    sites = tuple(site_id(f"site-{i:04d}") for i in range(len(vectors)))
    signing = Keys(sites)
    digest = plan_digest(plan)
    round_ = RoundId(digest, 1, 1, RoundKind.TRAIN, Digest("0" * 64))
    cipher = plan.aggregation.mask_cipher
    machines = {
        site: _Overheard(
            me=site,
            round=round_,
            layout=fixed.layout,
            floor=SMALLEST,
            plan_floor=len(sites),
            roster=sites,
            sign=signing.sign_as(site),
            verify=signing.verify,
            entropy=entropy,
            cipher=cipher,
        )
        for site in sites
    }
    terms = RoundTerms(
        round=round_,
        invited=sites,
        quorum=len(sites),
        deadline_s=1.0,
        grace_s=0.0,
        stage_timeout_s=1.0,
        layout=fixed.layout,
        cipher=cipher,
        verify=signing.verify,
    )
    of = dict(zip(sites, vectors, strict=True))

    def copy(site: SiteId) -> Ring:
        return of[site].copy()  # the machine masks it in place

    played = Play(terms, machines, copy, {}).run()
    if played.commit is None:
        raise RoundFailed(f"the round in memory did not commit: {played.reason}; report this")
    total = played.commit.totals[0]
    uploads = tuple(machine.uploaded for machine in machines.values())
    first = machines[sites[0]]
    return MaskedSum(
        total,
        fixed.decode(total, contributors=len(sites)),
        uploads,
        first.under_pair_masks,
        first.under_own_mask,
    )


class _Overheard(SiteRound):
    """A site whose masked vector is kept as it went out, and with each kind of mask taken off."""

    uploaded: Ring
    under_pair_masks: Ring
    under_own_mask: Ring

    def handle(self, event: SiteEvent) -> list[Command]:
        commands = super().handle(event)
        for command in commands:
            if isinstance(command, Upload):
                self.uploaded = command.masked.copy()
                self.under_pair_masks = self._without(self._own_mask)
                self.under_own_mask = self._without(self._pair_masks)
        return commands

    def _without(self, masks: Callable[[Vector], list[Mask]]) -> Ring:
        words = self.uploaded.copy()
        for vector in self._layout.vectors:
            part = words[self._layout.slice(vector.name)]
            apply_masks(part, [m.inverted() for m in masks(vector)], cipher=self._cipher)
        return words

    def _own_mask(self, vector: Vector) -> list[Mask]:
        assert self._secrets is not None
        assert self._topology is not None
        key = keys.self_mask_key(
            self._secrets.self_seed,
            session=self._topology.session,
            owner=self.me,
            vector=vector,
            cipher=self._cipher,
        )
        return [Mask(key)]

    def _pair_masks(self, vector: Vector) -> list[Mask]:
        assert self._secrets is not None
        assert self._topology is not None
        found = []
        for peer in set(self._topology.partners(self.me)) & set(self._masked_among):
            key = keys.pair_mask_key(
                self._secrets.peers[peer].mask,
                session=self._topology.session,
                one=self.me,
                other=peer,
                vector=vector,
                cipher=self._cipher,
            )
            found.append(pair_mask(key, me=self.me, peer=peer))
        return found
