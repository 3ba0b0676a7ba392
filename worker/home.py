"""The worker's folder: its identity, what it remembers, its ledger, its stored updates.

STATE/identity/  site.key site.pem authority.pem     (0600 in 0700; authority.pem holds two while
                                                     the authority is being replaced)
STATE/worker.db  STATE/ledger.db  STATE/blobs/  STATE/split.key  STATE/lock
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from primia.errors import IdentityError, StateError
from primia.identity import keyfile
from primia.identity.certificate import (
    Role,
    check_issued,
    check_key,
    fingerprint,
    from_pem,
    issuer_of,
    roots_from_pem,
    to_pem,
)
from primia.identity.enrolment import Enrolled
from primia.identity.invitation import Invitation, read_code
from primia.privacy.ledger import Ledger
from primia.storage.disk import DISK, Disk
from primia.storage.folder import StateFolder
from primia.types import SiteId
from primia.wire.channel import ClientTls
from worker.state import WorkerState

_EMPTY = "nobody enrolled here; run: primia-worker enrol CODE --state "


@dataclass(frozen=True)
class SiteIdentity:
    """Who this worker is, and whom it trusts.

    successor: the newer authority, endorsed by `authority`, while both are valid.
    """

    site: SiteId
    address: str  # of the coordinator
    certificate: x509.Certificate
    authority: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    successor: x509.Certificate | None = None

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """The authorities trusted here, the newer last."""
        return (self.authority,) if self.successor is None else (self.authority, self.successor)

    def tls(self) -> ClientTls:
        """What it dials with."""
        return ClientTls(
            authority=b"".join(to_pem(root) for root in self.roots),
            certificate=to_pem(self.certificate),
            key=keyfile.key_to_pem(self.key),
        )


def enrol(
    folder: Path, code: str, expected: str | None, *, again: bool = False
) -> tuple[SiteIdentity, str]:
    """Turn a code into an identity in `folder`; returns it and the authority's fingerprint.

    expected: the fingerprint heard by telephone, if it is to be compared here and now.
    again: replace the certificate of an enrolled folder and keep its key, so that peers know it.
    Raises IdentityError, Unreachable, StateError; nothing is trusted then.
    """
    from primia.wire.client import enrol as ask

    invitation = read_code(code)
    if expected is not None and len(_plain(expected)) != 64:
        raise IdentityError(
            f"{expected!r} is not a fingerprint, which has 32 pairs of digits such as ab:0c:…"
        )
    if expected is not None and _plain(expected) != _plain(invitation.fingerprint):
        raise IdentityError(
            f"the code is for the authority {invitation.fingerprint}, not for the fingerprint "
            "given; do not enrol, and call the coordinator's operator"
        )
    with StateFolder(folder):
        identity = folder / "identity"
        if is_enrolled(folder) and not again:
            raise StateError(
                f"{folder} is enrolled already; if its certificate was struck or has expired, "
                "enrol with --again, which keeps the key; if the key was lost or read by others, "
                f"move {identity} away first and keep everything else: the ledger beside it says "
                "what the patients have spent"
            )
        if again:
            _check_same_site(folder, invitation)
        key_path = identity / "site.key"
        # The key is on disk before it is certified: a reply that gets lost can be asked for again.
        if not key_path.exists():
            keyfile.store_key(key_path, keyfile.new_key())
        key = keyfile.load_key(key_path)
        enrolled = ask(invitation, key)
        _start_books(folder, invitation, enrolled, new=not again)
        keyfile.store(identity / "authority.pem", to_pem(enrolled.authority))
        keyfile.store(identity / "site.pem", to_pem(enrolled.certificate))
    return load(folder), fingerprint(enrolled.authority)


def is_enrolled(folder: Path) -> bool:
    """Does `folder` hold an identity? The certificate is what enrolment stores last."""
    return (folder / "identity" / "site.pem").exists()


def _check_same_site(folder: Path, invitation: Invitation) -> None:
    state = WorkerState(folder)
    site = state.noted("site")
    state.close()
    if site != invitation.site:
        raise IdentityError(
            f"the code is for {invitation.site}, and {folder} belongs to {site or 'nobody yet'}; "
            "ask for a code for this site, or leave --again out"
        )


def _start_books(folder: Path, invitation: Invitation, enrolled: Enrolled, *, new: bool) -> None:
    """The empty ledger, the split key, the address; the certificate comes last and seals it.

    new: false for a site that took part before, whose ledger must be there.
    """
    state = WorkerState(folder)
    state.note("address", invitation.address)
    state.note("site", invitation.site)
    state.audit.append(
        "enrolled",
        site=invitation.site,
        certificate=fingerprint(enrolled.certificate),
        authority=fingerprint(enrolled.authority),
    )
    state.close()
    Ledger(folder / "ledger.db", create=new).close()
    if not (folder / "split.key").exists():
        keyfile.store(folder / "split.key", os.urandom(32))


def load(folder: Path, disk: Disk = DISK, *, private: bool = True) -> SiteIdentity:
    """Read the identity back and check it. Raises IdentityError or StateError.

    private: refuse a key that is open to others.
    """
    if not is_enrolled(folder):
        raise StateError(f"{folder}: {_EMPTY}{folder}")
    state = WorkerState(folder, disk=disk)
    address, site = state.noted("address"), state.noted("site")
    state.close()
    if address is None or site is None:
        raise StateError(f"{folder}: {_EMPTY}{folder}")
    roots = roots_from_pem(keyfile.load(folder / "identity" / "authority.pem"))
    certificate = from_pem(keyfile.load(folder / "identity" / "site.pem"))
    path = folder / "identity" / "site.key"
    key = keyfile.load_key(path) if private else keyfile.key_from_pem(keyfile.load(path))
    check_key(certificate, key)
    issuer = issuer_of(certificate, roots)
    identity = check_issued(certificate, issuer, role=Role.SITE, now=datetime.now(UTC))
    if identity.name != site:
        raise IdentityError(f"the certificate is for {identity}, the folder for {site}")
    successor = roots[1] if len(roots) > 1 else None
    return SiteIdentity(SiteId(site), address, certificate, roots[0], key, successor)


def store(folder: Path, identity: SiteIdentity) -> None:
    """Keep a renewed certificate and the authorities trusted now; each file is replaced whole.

    A crash in between is harmless: the certificate is one of an authority trusted before and
    after.
    """
    roots = b"".join(to_pem(root) for root in identity.roots)
    keyfile.store(folder / "identity" / "authority.pem", roots)
    keyfile.store(folder / "identity" / "site.pem", to_pem(identity.certificate))


def _plain(text: str) -> str:
    return "".join(c for c in text.lower() if c in "0123456789abcdef")
