"""What both sides must compute alike: signed statements and the session id.

Every statement opens with its own label and is length-prefixed throughout, so no byte string
can be read as two different statements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from functools import lru_cache

from primia.errors import PeerError
from primia.protocol.messages import KeyAdvert, RoundId
from primia.secagg.keys import framed
from primia.types import SiteId

SMALLEST_COHORT = 3
"""With two sites in a sum, each knows the other's term."""

_ADVERT = b"primia round v2 key advert"
_SESSION = b"primia round v2 session"
_PARTNERS = b"primia round v2 mask partners"
_SURVIVORS = b"primia round v2 survivors"


def round_bytes(round_id: RoundId) -> bytes:
    """The byte form of a round's name. Raises PeerError for a number out of range."""
    if not (0 <= round_id.number < 2**63 and 0 <= round_id.attempt < 2**63):
        raise PeerError(f"round {round_id.number} attempt {round_id.attempt}: out of range")
    return framed(
        round_id.plan.encode(),
        round_id.number.to_bytes(8, "big"),
        round_id.attempt.to_bytes(8, "big"),
        round_id.kind.value.encode(),
        round_id.model.encode(),
    )


def advert_statement(advert: KeyAdvert, cohort: tuple[SiteId, ...]) -> bytes:
    """What a site signs about its keys: for this round, this model and exactly this cohort."""
    return framed(_ADVERT, round_bytes(advert.round), _digest(cohort), _public_part(advert))


def session_id(round_id: RoundId, cohort: Iterable[SiteId], adverts: Iterable[KeyAdvert]) -> bytes:
    """SHA-256 over the round, its cohort and all public keys, 32 bytes.

    Sites that were told different models, plans, cohorts or keys get different sessions, so
    their masks do not cancel and their shares do not open.
    """
    keys = [_public_part(a) for a in sorted(adverts, key=lambda a: a.site)]
    statement = framed(_SESSION, round_bytes(round_id), _names(cohort), framed(*keys))
    return hashlib.sha256(statement).digest()


def partner_statement(session: bytes, masked_among: Collection[SiteId]) -> bytes:
    """What a site signs with its vectors: whom it was told to mask among."""
    return framed(_PARTNERS, session, _names(masked_among))


def survivor_statement(
    session: bytes, masked_among: Collection[SiteId], survivors: Collection[SiteId]
) -> bytes:
    """What a site signs before anything is opened: who masked, and whose vector arrived.

    The first list is each site's own view, so signatures of sites that were told different
    mask partners do not verify for each other.
    """
    return framed(_SURVIVORS, session, _names(masked_among), _names(survivors))


def _names(sites: Iterable[SiteId]) -> bytes:
    return framed(*(site.encode() for site in sorted(sites)))


@lru_cache(maxsize=8)  # one cohort is in each of its sites' statements
def _digest(cohort: tuple[SiteId, ...]) -> bytes:
    return hashlib.sha256(_names(cohort)).digest()


def _public_part(advert: KeyAdvert) -> bytes:
    return framed(advert.site.encode(), advert.mask_key, advert.seal_key, advert.seed_commitment)
