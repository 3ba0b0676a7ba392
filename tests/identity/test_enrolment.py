"""What a hospital believes of a reply, and what it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes

from primia.errors import IdentityError
from primia.identity import authority as authorities
from primia.identity.certificate import to_pem
from primia.identity.enrolment import check_reply, make_request
from primia.identity.invitation import Invitation
from primia.identity.keyfile import new_key
from primia.types import SiteId

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MUNICH, BERLIN = SiteId("munich"), SiteId("berlin")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authorities")
    ours = authorities.create(folder / "ours", "chest", now=NOW, valid_days=400)
    other = authorities.create(folder / "other", "chest", now=NOW, valid_days=400)
    invitation = Invitation(
        address="lab:7443",
        site=MUNICH,
        authority=ours.certificate.fingerprint(hashes.SHA256()),
        not_after=NOW + timedelta(days=2),
        secret=bytes(32),
    )
    return ours, other, invitation


def reply(authority, key, site=MUNICH, served_by=None):
    coordinator = authority.issue_coordinator(
        new_key().public_key(), "chest", now=NOW, valid_days=9
    )
    return {
        "certificate": to_pem(
            authority.issue_site(make_request(key), site, now=NOW, valid_days=90)
        ),
        "authority": to_pem(authority.certificate),
        "served_by": to_pem(served_by or coordinator),
        "now": NOW,
    }


def test_an_honest_reply_is_kept(world):
    ours, _, invitation = world
    key = new_key()
    kept = check_reply(invitation, key, **reply(ours, key))
    assert kept.certificate.public_key() == key.public_key()
    assert kept.authority == ours.certificate


def test_a_foreign_authority_is_refused_by_its_fingerprint(world):
    _, other, invitation = world
    key = new_key()
    with pytest.raises(IdentityError, match="another authority"):
        check_reply(invitation, key, **reply(other, key))


def test_the_true_authority_shown_by_a_false_server_is_refused(world):
    """The authority's certificate is public: an impostor can show it but not be issued by it."""
    ours, other, invitation = world
    key = new_key()
    impostor = other.issue_coordinator(new_key().public_key(), "chest", now=NOW, valid_days=9)
    with pytest.raises(IdentityError, match="not issued by"):
        check_reply(invitation, key, **reply(ours, key, served_by=impostor))


def test_another_hospital_cannot_play_the_coordinator(world):
    ours, _, invitation = world
    key = new_key()
    hospital = ours.issue_site(make_request(new_key()), BERLIN, now=NOW, valid_days=9)
    with pytest.raises(IdentityError, match="site berlin cannot act as coordinator"):
        check_reply(invitation, key, **reply(ours, key, served_by=hospital))


def test_a_certificate_for_another_key_or_site_is_refused(world):
    ours, _, invitation = world
    key = new_key()
    with pytest.raises(IdentityError, match="does not belong"):
        check_reply(invitation, new_key(), **reply(ours, key))
    with pytest.raises(IdentityError, match="names site berlin"):
        check_reply(invitation, key, **reply(ours, key, site=BERLIN))
