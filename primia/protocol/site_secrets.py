"""The secrets of one site in one round, and everything that is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from primia.protocol.messages import KeyAdvert, RoundId
from primia.secagg import keys, shares
from primia.secagg.layout import Layout
from primia.secagg.masks import Mask, apply_masks, pair_mask
from primia.secagg.sealing import SharePair, seal, unseal
from primia.secagg.topology import Topology
from primia.types import Ring, SiteId

Entropy = Callable[[int], bytes]
"""n → n bytes from the operating system."""


@dataclass(frozen=True)
class PeerSecrets:
    """The X25519 secrets with one neighbour, 32 bytes each."""

    mask: bytes = field(repr=False)
    seal: bytes = field(repr=False)


@dataclass(frozen=True)
class SiteSecrets:
    """Two key pairs, the self seed, and the shares this site holds of its neighbours' secrets.

    Never lives longer than the session. Python cannot promise to wipe bytes; dropping the last
    reference is what it offers. What the worker keeps on disk is the seed of `entropy`.
    """

    me: SiteId
    mask: keys.KeyPair = field(repr=False)
    seal: keys.KeyPair = field(repr=False)
    self_seed: bytes = field(repr=False)
    peers: dict[SiteId, PeerSecrets] = field(default_factory=dict, repr=False)
    held: dict[SiteId, SharePair] = field(default_factory=dict, repr=False)

    @staticmethod
    def make(me: SiteId, entropy: Entropy) -> SiteSecrets:
        """Fresh secrets for one session."""
        return SiteSecrets(
            me=me,
            mask=keys.key_pair(keys.clamp(draw(entropy, keys.KEY_BYTES))),
            seal=keys.key_pair(draw(entropy, keys.KEY_BYTES)),
            self_seed=draw(entropy, keys.KEY_BYTES),
        )

    def advert(self, round_id: RoundId) -> KeyAdvert:
        """The public side, still without a signature."""
        return KeyAdvert(
            round=round_id,
            site=self.me,
            mask_key=self.mask.public,
            seal_key=self.seal.public,
            seed_commitment=keys.commit_to_seed(self.self_seed, owner=self.me),
            signature=b"",
        )

    def meet(self, neighbours: Iterable[KeyAdvert]) -> None:
        """Agree on both secrets with each neighbour, once for the whole session.

        Raises PeerError for a key of small order.
        """
        for advert in neighbours:
            self.peers[advert.site] = PeerSecrets(
                mask=self.mask.agree(advert.mask_key), seal=self.seal.agree(advert.seal_key)
            )

    def share(self, topology: Topology, entropy: Entropy) -> dict[SiteId, bytes]:
        """Share both secrets among this site's holders, once it met them; its own share is kept.

        Returns one ciphertext for each other holder.
        """
        holders, t = topology.holders(self.me), topology.threshold

        def split(secret: bytes) -> list[bytes]:
            coefficients = draw(entropy, shares.entropy_bytes(t))
            return shares.split(secret, holders=len(holders), threshold=t, entropy=coefficients)

        sealed: dict[SiteId, bytes] = {}
        parts = zip(holders, split(self.self_seed), split(self.mask.private), strict=True)
        for holder, seed_share, key_share in parts:
            pair = SharePair(self_seed=seed_share, mask_key=key_share)
            if holder == self.me:
                self.held[holder] = pair
                continue
            secret = self.peers[holder].seal
            sealed[holder] = seal(
                pair, secret, session=topology.session, sender=self.me, receiver=holder
            )
        return sealed

    def take_shares(self, sealed: Mapping[SiteId, bytes], *, session: bytes) -> None:
        """Open and keep what the others made for this site. Raises PeerError if one won't open."""
        for peer, ciphertext in sealed.items():
            secret = self.peers[peer].seal
            self.held[peer] = unseal(
                ciphertext, secret, session=session, sender=peer, receiver=self.me
            )

    def mask_in_place(
        self,
        words: Ring,
        layout: Layout,
        partners: Collection[SiteId],
        *,
        session: bytes,
        cipher: str,
        threads: int = 1,
    ) -> None:
        """Add this site's own mask and one for each partner, to each vector its own."""
        for vector in layout.vectors:
            own = keys.self_mask_key(
                self.self_seed, session=session, owner=self.me, vector=vector, cipher=cipher
            )
            masks = [Mask(own)]
            for peer in partners:
                secret = self.peers[peer].mask
                key = keys.pair_mask_key(
                    secret, session=session, one=self.me, other=peer, vector=vector, cipher=cipher
                )
                masks.append(pair_mask(key, me=self.me, peer=peer))
            part = words[layout.slice(vector.name)]
            apply_masks(part, masks, cipher=cipher, threads=threads)

    def seed_shares(self, owners: Iterable[SiteId]) -> dict[SiteId, bytes]:
        """The held shares of these sites' self seeds."""
        return {owner: self.held[owner].self_seed for owner in owners}

    def key_shares(self, owners: Iterable[SiteId]) -> dict[SiteId, bytes]:
        """The held shares of these sites' mask keys."""
        return {owner: self.held[owner].mask_key for owner in owners}


def draw(entropy: Entropy, count: int) -> bytes:
    """`count` bytes. Raises ValueError if the source gives another number."""
    data = entropy(count)
    if len(data) != count:
        raise ValueError(f"entropy gave {len(data)} bytes, asked for {count}")
    return data
