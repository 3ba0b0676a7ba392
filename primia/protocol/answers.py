"""What the coordinator checks of one answer of a site. Each check raises PeerError."""

from __future__ import annotations

from dataclasses import dataclass

from primia.errors import PeerError
from primia.protocol.events import Verify
from primia.protocol.messages import (
    KeyAdvert,
    Masked,
    RevealedShares,
    SealedShares,
    SurvivorSignature,
)
from primia.protocol.session import advert_statement, partner_statement, survivor_statement
from primia.secagg.keys import KEY_BYTES, check_public_key
from primia.secagg.sealing import SEALED_BYTES
from primia.secagg.shares import SHARE_BYTES
from primia.secagg.topology import Topology
from primia.types import SiteId


@dataclass(frozen=True)
class Exchange:
    """An exchange of keys, and who is in its sum. survivors: empty until the vectors are there."""

    topology: Topology
    masked_among: tuple[SiteId, ...]
    survivors: tuple[SiteId, ...]
    verify: Verify

    def check_session(self, site: SiteId, session: bytes) -> None:
        """The answer belongs to this exchange."""
        if session != self.topology.session:
            raise PeerError(f"{site} answered for another session; it should drop this round")


def check_advert(
    site: SiteId, advert: KeyAdvert, cohort: tuple[SiteId, ...], verify: Verify
) -> None:
    """Its own keys, good ones, signed for this cohort."""
    if advert.site != site or len(advert.seed_commitment) != KEY_BYTES:
        raise PeerError(f"keys of {site}: malformed; check that both sides run one version")
    check_public_key(advert.mask_key)
    check_public_key(advert.seal_key)
    if not verify(site, advert_statement(advert, cohort), advert.signature):
        raise PeerError(f"keys of {site}: the signature does not hold; check its certificate")


def check_sealed(site: SiteId, answer: SealedShares, exchange: Exchange) -> None:
    """One sealed share for each neighbour."""
    exchange.check_session(site, answer.session)
    if set(answer.sealed) != set(exchange.topology.holders(site)) - {site} or any(
        len(c) != SEALED_BYTES for c in answer.sealed.values()
    ):
        raise PeerError(f"sealed shares of {site}: not one for each neighbour")


def check_masked(site: SiteId, answer: Masked, exchange: Exchange) -> None:
    """It masked among those it was told of."""
    exchange.check_session(site, answer.session)
    statement = partner_statement(answer.session, exchange.masked_among)
    if not exchange.verify(site, statement, answer.signature):
        raise PeerError(f"mask partners of {site}: the signature does not hold")


def check_signature(site: SiteId, answer: SurvivorSignature, exchange: Exchange) -> None:
    """It signed for exactly these survivors."""
    exchange.check_session(site, answer.session)
    statement = survivor_statement(answer.session, exchange.masked_among, exchange.survivors)
    if not exchange.verify(site, statement, answer.signature):
        raise PeerError(f"survivor list of {site}: the signature does not hold")


def check_revealed(site: SiteId, answer: RevealedShares, exchange: Exchange) -> None:
    """One share of each neighbour: of the seed of a survivor, of the mask key of a lost site."""
    exchange.check_session(site, answer.session)
    owners = set(exchange.topology.holders(site))
    alive = owners & set(exchange.survivors)
    lost = owners & set(exchange.masked_among) - alive
    if set(answer.self_seeds) != alive or set(answer.mask_keys) != lost:
        raise PeerError(f"shares of {site}: not one kind for each peer as signed")
    if any(
        len(s) != SHARE_BYTES for m in (answer.self_seeds, answer.mask_keys) for s in m.values()
    ):
        raise PeerError(f"shares of {site}: malformed")
