from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from primia.errors import PeerError
from primia.protocol.messages import KeyAdvert, RoundId, RoundKind
from primia.protocol.session import (
    advert_statement,
    partner_statement,
    session_id,
    survivor_statement,
)
from primia.types import Digest, SiteId

COHORT = (SiteId("alder"), SiteId("birch"), SiteId("cedar"))
ROUND = RoundId(Digest("a" * 64), 3, 9, RoundKind.TRAIN, Digest("b" * 64))


def advert(site: SiteId) -> KeyAdvert:
    def public(kind: str) -> bytes:
        return hashlib.shake_256(f"{site} {kind}".encode()).digest(32)

    return KeyAdvert(ROUND, site, public("mask"), public("seal"), public("seed"), b"signature")


ADVERTS = tuple(advert(s) for s in COHORT)


def test_statements_and_session_match_the_known_answers():
    path = Path(__file__).parent.parent / "vectors" / "secagg.json"
    vectors = json.loads(path.read_text())
    v = vectors["statements"]
    session = bytes.fromhex(vectors["session"])
    assert (ROUND.number, ROUND.attempt) == (v["number"], v["attempt"])
    assert session_id(ROUND, COHORT, ADVERTS).hex() == v["session_id"]
    signed = advert_statement(ADVERTS[0], COHORT)
    assert hashlib.sha256(signed).hexdigest() == v["advert_sha256"]
    survivors = survivor_statement(session, COHORT, COHORT[:2])
    assert hashlib.sha256(survivors).hexdigest() == v["survivors_sha256"]
    partners = partner_statement(session, COHORT)
    assert hashlib.sha256(partners).hexdigest() == v["mask_partners_sha256"]


OTHER_ROUNDS = [
    replace(ROUND, plan=Digest("c" * 64)),
    replace(ROUND, model=Digest("c" * 64)),
    replace(ROUND, number=4),
    replace(ROUND, attempt=10),
    replace(ROUND, kind=RoundKind.EVALUATE),
]


def test_the_session_depends_on_the_round_the_cohort_and_every_key():
    sessions = [session_id(ROUND, COHORT, ADVERTS), session_id(ROUND, COHORT[:2], ADVERTS)]
    sessions += [session_id(other, COHORT, ADVERTS) for other in OTHER_ROUNDS]
    sessions.append(session_id(ROUND, COHORT, ADVERTS[:2]))
    for field in ("mask_key", "seal_key", "seed_commitment"):
        changed = replace(ADVERTS[1], **{field: bytes(32)})
        sessions.append(session_id(ROUND, COHORT, (ADVERTS[0], changed, ADVERTS[2])))
    assert len(set(sessions)) == len(sessions)


def test_the_session_does_not_depend_on_the_order_a_coordinator_chooses():
    one = session_id(ROUND, COHORT, ADVERTS)
    assert session_id(ROUND, COHORT[::-1], ADVERTS[::-1]) == one


def test_what_is_signed_about_keys_names_round_cohort_site_and_keys():
    statements = [advert_statement(ADVERTS[0], COHORT), advert_statement(ADVERTS[0], COHORT[:2])]
    statements += [advert_statement(replace(ADVERTS[0], round=r), COHORT) for r in OTHER_ROUNDS]
    for field in ("mask_key", "seal_key", "seed_commitment"):
        statements.append(advert_statement(replace(ADVERTS[0], **{field: bytes(32)}), COHORT))
    statements.append(advert_statement(replace(ADVERTS[0], site=SiteId("elm")), COHORT))
    assert len(set(statements)) == len(statements)


def test_what_is_signed_about_mask_partners_names_session_and_partners_and_nothing_else():
    statements = {
        partner_statement(session, among)
        for session in (bytes(32), b"\x01" * 32)
        for among in (COHORT, COHORT[:2])
    }
    assert len(statements) == 2 * 2
    assert not statements & {survivor_statement(bytes(32), COHORT, COHORT)}


def test_what_is_signed_about_survivors_names_session_partners_and_survivors():
    statements = {
        survivor_statement(session, among, survivors)
        for session in (bytes(32), b"\x01" * 32)
        for among in (COHORT, COHORT[:2])
        for survivors in (COHORT, COHORT[:2], COHORT[1:])
    }
    assert len(statements) == 2 * 2 * 3


def test_a_round_number_out_of_range_is_refused():
    for wrong in (replace(ROUND, number=-1), replace(ROUND, attempt=2**63)):
        with pytest.raises(PeerError, match="out of range"):
            session_id(wrong, COHORT, ADVERTS)
