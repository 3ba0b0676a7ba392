"""All sites of a session with their secrets, for the steps that need everybody's: sharing, opening.

No signatures and no messages here; `rounds` has those.
"""

from __future__ import annotations

import os

import numpy as np

from benchmarks.secagg.rounds import ROUND
from primia.protocol.messages import RevealedShares
from primia.protocol.site_secrets import SiteSecrets
from primia.protocol.unmasking import MaskedSums, unmask
from primia.secagg.layout import Layout
from primia.secagg.topology import Topology
from primia.types import Ring, SiteId

SESSION = b"s" * 32


class Cohort:
    """n sites of which the last `lost` masked and then fell silent."""

    def __init__(self, n: int, lost: int = 0) -> None:
        self.names = tuple(SiteId(f"site-{i:04d}") for i in range(n))
        self.survivors = self.names[: n - lost]
        self.topology = Topology(SESSION, self.names)
        self.secrets = {name: SiteSecrets.make(name, os.urandom) for name in self.names}
        self.adverts = {name: made.advert(ROUND) for name, made in self.secrets.items()}

    def agree_and_share(self, site: SiteId | None = None) -> dict[SiteId, bytes]:
        """What one site (the first) does: agree with its neighbours, share both secrets, seal."""
        me = self.names[0] if site is None else site
        secrets = self.secrets[me]
        secrets.meet(self.adverts[s] for s in self.topology.holders(me) if s != me)
        return secrets.share(self.topology, os.urandom)

    def reveal(self) -> dict[SiteId, RevealedShares]:
        """The shares that `threshold` survivors open, after everybody shared with everybody."""
        sealed = {name: self.agree_and_share(name) for name in self.names}
        lost = self.names[len(self.survivors) :]
        revealed = {}
        for name in self.survivors[: self.topology.threshold]:
            mine = {sender: made[name] for sender, made in sealed.items() if name in made}
            secrets = self.secrets[name]
            secrets.take_shares(mine, session=SESSION)
            revealed[name] = RevealedShares(
                ROUND, SESSION, secrets.seed_shares(self.survivors), secrets.key_shares(lost)
            )
        return revealed

    def masked(self, layout: Layout, words: dict[SiteId, Ring]) -> Ring:
        """The sum of the survivors' words, each under its masks; `reveal` must have run."""
        total = np.zeros(layout.length, np.uint32)
        for name in self.survivors:
            own = words[name].copy()
            self.secrets[name].mask_in_place(
                own,
                layout,
                self.topology.partners(name),
                session=SESSION,
                cipher="aes-256-ctr",
            )
            total += own
        return total

    def open(
        self, total: Ring, layout: Layout, revealed: dict[SiteId, RevealedShares], threads: int = 1
    ) -> None:
        """The coordinator's last step: rebuild and check the secrets, take off the masks."""
        masked = MaskedSums(
            totals=(total,),
            layout=layout,
            topology=self.topology,
            adverts=self.adverts,
            masked_among=self.names,
            survivors=self.survivors,
        )
        unmask(masked, revealed, threads=threads)

    @property
    def masks(self) -> int:
        """How many masks lie on the sum: one for each survivor, and its pairs with each lost."""
        return len(self.survivors) * (1 + len(self.names) - len(self.survivors))
