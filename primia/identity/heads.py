"""Heads that two sides hold for each other, so that neither is put back to an older copy unseen.

A site signs how far its privacy ledger and its audit log have come; the coordinator keeps that, and
signs it together with the head of its own audit log; the site keeps this in turn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from primia.errors import IdentityError
from primia.identity.certificate import Role, check_issued, from_pem, issuer_of
from primia.identity.signing import sign, verify
from primia.types import Digest, SiteId

SITE_LABEL = b"site heads v1"
COORDINATOR_LABEL = b"coordinator head v1"


@dataclass(frozen=True)
class Mark:
    """How far a chain has come: how many entries, and the digest of the last one."""

    count: int
    digest: Digest

    def went_back(self, earlier: Mark) -> bool:
        """Whether no honest chain that was once at `earlier` can be here."""
        return self.count < earlier.count or (
            self.count == earlier.count and self.digest != earlier.digest
        )


@dataclass(frozen=True)
class SiteHeads:
    """How far a site's books have come. attempt: the last one of the study it heard of, or 0."""

    plan: Digest
    site: SiteId
    attempt: int
    ledger: Mark
    audit: Mark

    def statement(self) -> bytes:
        """What is signed."""
        return _joined(self)

    def went_back(self, earlier: SiteHeads) -> str | None:
        """Which of the books cannot have come to this after `earlier`, in words; None if none."""
        for name, now, then in (
            ("privacy ledger", self.ledger, earlier.ledger),
            ("audit log", self.audit, earlier.audit),
        ):
            if now.went_back(then):
                was, here = f"entry {then.count}", f"entry {now.count}"
                return f"its {name} went from {was} to {here}" + (
                    ", another one" if now.count == then.count else ""
                )
        return None


@dataclass(frozen=True)
class SignedHeads:
    """A site's heads under its own signature; certificate: the signer's, PEM."""

    heads: SiteHeads
    signature: bytes
    certificate: bytes

    def holds(self) -> bool:
        """Whether the certificate's key signed them; whose certificate it is, the caller checks."""
        return verify(
            from_pem(self.certificate), SITE_LABEL, self.heads.statement(), self.signature
        )

    def to_json(self) -> str:
        """For a database."""
        return json.dumps([_as_list(self.heads), self.signature.hex(), self.certificate.decode()])

    @classmethod
    def from_json(cls, text: str) -> SignedHeads:
        """The reverse of `to_json`."""
        heads, signature, certificate = json.loads(text)
        return cls(_from_list(heads), bytes.fromhex(signature), certificate.encode())


@dataclass(frozen=True)
class Countersigned:
    """The coordinator's word: it holds `heads`, and its own audit log has come to `audit`."""

    heads: SiteHeads
    audit: Mark
    signature: bytes
    certificate: bytes

    def statement(self) -> bytes:
        """What is signed."""
        return _countersigned_statement(self.heads, self.audit)

    def check(
        self, authorities: Sequence[x509.Certificate], *, now: datetime | None = None
    ) -> None:
        """Raise IdentityError unless a coordinator of one of `authorities` signed this.

        now: None for a countersignature of the past, whose certificate may have run out since.
        """
        certificate = from_pem(self.certificate)
        moment = certificate.not_valid_before_utc if now is None else now
        authority = issuer_of(certificate, authorities)
        check_issued(certificate, authority, role=Role.COORDINATOR, now=moment)
        if not verify(certificate, COORDINATOR_LABEL, self.statement(), self.signature):
            raise IdentityError("a countersignature that the coordinator did not make")

    def to_json(self) -> str:
        """For a database."""
        mark = [self.audit.count, self.audit.digest]
        return json.dumps(
            [_as_list(self.heads), mark, self.signature.hex(), self.certificate.decode()]
        )

    @classmethod
    def from_json(cls, text: str) -> Countersigned:
        """The reverse of `to_json`."""
        heads, (count, digest), signature, certificate = json.loads(text)
        mark = Mark(count, Digest(digest))
        return cls(_from_list(heads), mark, bytes.fromhex(signature), certificate.encode())


def sign_heads(
    heads: SiteHeads, key: ec.EllipticCurvePrivateKey, certificate: bytes
) -> SignedHeads:
    """A site's signature over its heads; certificate: its own, PEM."""
    return SignedHeads(heads, sign(key, SITE_LABEL, heads.statement()), certificate)


def countersign(
    heads: SiteHeads, audit: Mark, key: ec.EllipticCurvePrivateKey, certificate: bytes
) -> Countersigned:
    """The coordinator's signature over a site's heads and its own; certificate: its own, PEM."""
    signature = sign(key, COORDINATOR_LABEL, _countersigned_statement(heads, audit))
    return Countersigned(heads, audit, signature, certificate)


def _countersigned_statement(heads: SiteHeads, audit: Mark) -> bytes:
    return json.dumps([_as_list(heads), audit.count, audit.digest], separators=(",", ":")).encode()


def _joined(heads: SiteHeads) -> bytes:
    return json.dumps(_as_list(heads), separators=(",", ":")).encode()


def _as_list(heads: SiteHeads) -> list[str | int]:
    return [
        heads.plan, heads.site, heads.attempt,
        heads.ledger.count, heads.ledger.digest, heads.audit.count, heads.audit.digest,
    ]  # fmt: skip


def _from_list(found: list[str | int]) -> SiteHeads:
    plan, site, attempt, rows, row, lines, line = found
    return SiteHeads(
        Digest(str(plan)), SiteId(str(site)), int(attempt),
        Mark(int(rows), Digest(str(row))), Mark(int(lines), Digest(str(line))),
    )  # fmt: skip
