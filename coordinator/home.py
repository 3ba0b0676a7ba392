"""The coordinator's folder: authority, own key, database, blobs, the lock.

STATE/authority/   authority.key authority.pem   (may be kept offline; then nothing is certified)
STATE/authority/2/ the same of the authority that followed, and so on
STATE/identity/    coordinator.key
STATE/coordinator.db  STATE/blobs/  STATE/uploads/  STATE/lock

What is valid stands in the database, certificates included; the folders only keep keys.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.state import CoordinatorState
from primia.errors import ConfigError, StateError
from primia.identity import authority, keyfile
from primia.identity.certificate import (
    Identity,
    Role,
    check_issued,
    check_key,
    fingerprint,
    from_pem,
    to_pem,
)
from primia.identity.invitation import Invitation
from primia.roster import AuthorityRow
from primia.storage.folder import StateFolder
from primia.types import SiteId

AUTHORITY = "authority"
AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 825
INVITATION_DAYS = 14


def now() -> datetime:
    """The time of day; aware, UTC."""
    return datetime.now(UTC)


def initialise(folder: Path, study: str) -> str:
    """Make authority and coordinator certificate of `study` in `folder`; returns the fingerprint.

    Raises StateError when the folder is in use, ConfigError for a bad study name.
    """
    try:
        Identity(Role.COORDINATOR, study)
    except ValueError as err:
        raise ConfigError(
            f"{study!r} is not a study name: use lower-case letters, digits and hyphens"
        ) from err
    with StateFolder(folder):
        made = authority.create(folder / AUTHORITY, study, now=now(), valid_days=AUTHORITY_DAYS)
        key = keyfile.new_key()
        certificate = made.issue_coordinator(
            key.public_key(), study, now=now(), valid_days=CERTIFICATE_DAYS
        )
        keyfile.store_key(folder / "identity" / "coordinator.key", key)
        state = CoordinatorState(folder)
        state.audit.append("authority_made", study=study, fingerprint=made.fingerprint)
        state.note("study", study)
        state.add_authority(to_pem(made.certificate), coordinator=to_pem(certificate))
        state.close()
    return made.fingerprint


def made_before(folder: Path, study: str) -> str | None:
    """The fingerprint of the authority that `folder` holds for `study`; None for a new folder.

    Raises ConfigError when the folder was made for another study.
    """
    if not (folder / "coordinator.db").exists():
        return None
    state = CoordinatorState(folder)
    try:
        known = state.noted("study")
        if known is not None and known != study:
            raise ConfigError(
                f"{folder} was made for the study {known!r}; give {study} its own folder"
            )
        valid = [] if known is None else valid_authorities(folder, state)
        return fingerprint(certificate_of(valid[0].certificate)) if valid else None
    finally:
        state.close()


def is_enrolled(folder: Path, site: SiteId) -> bool:
    """Has `site` a certificate that was not struck?"""
    state = CoordinatorState(folder)
    try:
        return any(s.site == site for s in state.enrolled())
    finally:
        state.close()


def invite(folder: Path, site: SiteId, address: str) -> tuple[Invitation, str]:
    """Make a one-time invitation; returns it and the authority's fingerprint.

    Only the public enrolment certificate is kept; the secret is in the code and nowhere else.
    """
    state = CoordinatorState(folder)
    try:
        made = signing_authority(folder, serving(folder, state))
        study = state.study()
        if study is not None:
            from primia.config import plan_from_canonical

            if site not in plan_from_canonical(study.plan).site_ids:
                raise StateError(f"{site} is not a site of the running plan; nobody was invited")
        enrolled = [s for s in state.enrolled() if s.site == site]
        if enrolled:
            raise StateError(
                f"{site} is enrolled; strike it first if it has to enrol again: "
                f"primia-coordinator roster --strike {site}"
            )
        invitation = Invitation(
            address=address,
            site=site,
            authority=bytes.fromhex(made.fingerprint.replace(":", "")),
            secret=os.urandom(32),
            not_after=(now() + timedelta(days=INVITATION_DAYS)).replace(microsecond=0),
        )
        certificate = invitation.certificate()
        state.add_invitation(
            fingerprint=fingerprint(certificate),
            site=site,
            pem=to_pem(certificate),
            expires=invitation.not_after.timestamp(),
        )
    finally:
        state.close()
    return invitation, made.fingerprint


def valid_authorities(folder: Path, state: CoordinatorState) -> list[AuthorityRow]:
    """One, or during a rotation two, the newer last.

    A folder of before there were rotations is taken over from its files. Raises StateError.
    """
    rows = state.authorities()
    if not rows:
        state.add_authority(
            keyfile.load(folder / AUTHORITY / authority.CERTIFICATE_FILE),
            coordinator=keyfile.load(folder / "identity" / "coordinator.pem"),
        )
        rows = state.authorities()
    return [row for row in rows if row.retired_at is None]


def serving(folder: Path, state: CoordinatorState) -> AuthorityRow:
    """The authority that the coordinator shows itself with: the one that every site trusts."""
    return valid_authorities(folder, state)[0]


def signing_authority(folder: Path, row: AuthorityRow) -> authority.Authority:
    """The authority of `row` with its key. Raises StateError, with what to do, if it is offline."""
    wanted = certificate_of(row.certificate)
    for place in (folder / AUTHORITY, *sorted((folder / AUTHORITY).glob("*/"))):
        file = place / authority.CERTIFICATE_FILE
        if file.exists() and from_pem(keyfile.load(file)) == wanted:
            if (place / authority.KEY_FILE).exists():
                return authority.load(place)
            break
    raise StateError(
        f"the key of the study authority ({fingerprint(wanted)[:23]}…) is not in "
        f"{folder / AUTHORITY}, so nothing can be certified; put the folder back from where it is "
        "kept offline, and take it away again afterwards"
    )


def coordinator_identity(
    folder: Path, state: CoordinatorState
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The coordinator's certificate and key, checked. Raises IdentityError or StateError."""
    row = serving(folder, state)
    certificate = certificate_of(row.coordinator)
    check_issued(certificate, certificate_of(row.certificate), role=Role.COORDINATOR, now=now())
    key = coordinator_key(folder)
    check_key(certificate, key)
    return certificate, key


def coordinator_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The coordinator's key; it stays the same when its certificate is renewed."""
    return keyfile.load_key(folder / "identity" / "coordinator.key")


@lru_cache(maxsize=2048)
def certificate_of(pem: bytes) -> x509.Certificate:
    """`from_pem`, for what the database holds and every call asks for."""
    return from_pem(pem)
