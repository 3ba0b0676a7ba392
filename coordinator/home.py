"""The coordinator's folder: authority, own key and certificate, database, blobs, the lock.

STATE/authority/   authority.key authority.pem   (may be kept offline once all are enrolled)
STATE/identity/    coordinator.key coordinator.pem
STATE/coordinator.db  STATE/blobs/  STATE/uploads/  STATE/lock
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.state import CoordinatorState
from primia.errors import ConfigError, StateError
from primia.identity import authority, keyfile
from primia.identity.certificate import Identity, Role, check_issued, fingerprint, from_pem, to_pem
from primia.identity.invitation import Invitation
from primia.storage.folder import StateFolder
from primia.types import SiteId

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
        made = authority.create(folder / "authority", study, now=now(), valid_days=AUTHORITY_DAYS)
        key = keyfile.new_key()
        certificate = made.issue_coordinator(
            key.public_key(), study, now=now(), valid_days=CERTIFICATE_DAYS
        )
        keyfile.store_key(folder / "identity" / "coordinator.key", key)
        keyfile.store(folder / "identity" / "coordinator.pem", to_pem(certificate))
        state = CoordinatorState(folder)
        state.audit.append("authority_made", study=study, fingerprint=made.fingerprint)
        state.note("study", study)
        state.close()
    return made.fingerprint


def made_before(folder: Path, study: str) -> str | None:
    """The fingerprint of the authority that `folder` holds for `study`; None for a new folder.

    Raises ConfigError when the folder was made for another study.
    """
    if not (folder / "identity" / "coordinator.pem").exists():
        return None
    state = CoordinatorState(folder)
    known = state.noted("study")
    state.close()
    if known != study:
        raise ConfigError(f"{folder} was made for the study {known!r}; give {study} its own folder")
    return fingerprint(authority_certificate(folder))


def is_enrolled(folder: Path, site: SiteId) -> bool:
    """Has `site` a certificate that was not struck?"""
    state = CoordinatorState(folder)
    try:
        return any(s.site == site and s.struck_at is None for s in state.sites())
    finally:
        state.close()


def write_code(invitation: Invitation, file: Path) -> None:
    """The secret code to a file that only its owner reads. Raises StateError."""
    keyfile.store(file, invitation.code().encode("ascii") + b"\n")


def invite(folder: Path, site: SiteId, address: str) -> tuple[Invitation, str]:
    """Make a one-time invitation; returns it and the authority's fingerprint.

    Only the public enrolment certificate is kept; the secret is in the code and nowhere else.
    """
    state = CoordinatorState(folder)
    try:
        made = authority.load(folder / "authority")
        study = state.study()
        if study is not None:
            from primia.config import plan_from_canonical

            if site not in plan_from_canonical(study.plan).site_ids:
                raise StateError(f"{site} is not a site of the running plan; nobody was invited")
        enrolled = [s for s in state.sites() if s.site == site and s.struck_at is None]
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


def coordinator_identity(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The coordinator's certificate and key, checked. Raises IdentityError or StateError."""
    root = authority_certificate(folder)
    certificate = from_pem(keyfile.load(folder / "identity" / "coordinator.pem"))
    check_issued(certificate, root, role=Role.COORDINATOR, now=now())
    return certificate, keyfile.load_key(folder / "identity" / "coordinator.key")


def authority_certificate(folder: Path) -> x509.Certificate:
    """The study authority's certificate."""
    return from_pem(keyfile.load(folder / "authority" / authority.CERTIFICATE_FILE))
