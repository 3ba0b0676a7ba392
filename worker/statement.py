"""The ledger's statement, signed with this site's key: written to files, and checked again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from primia.config.site import SiteConfig
from primia.errors import IdentityError, StateError
from primia.identity import keyfile
from primia.identity.certificate import (
    Role,
    check_issued,
    fingerprint,
    from_pem,
    identity_of,
    to_pem,
)
from primia.identity.signing import sign, verify
from primia.privacy.statement import statement, to_html
from worker.books import open_ledger
from worker.home import SiteIdentity

LABEL = b"primia ledger statement v1"


@dataclass(frozen=True)
class Checked:
    """A statement whose signature holds, and whose it is."""

    content: dict[str, Any]
    signer: str
    certificate: str  # SHA-256; compare it with the one known of that site


def write_statement(
    target: Path, folder: Path, config: SiteConfig, identity: SiteIdentity
) -> dict[str, Any]:
    """Write TARGET/statement.json and .html; returns the content. Raises StateError."""
    with open_ledger(folder, config) as ledger:
        content = statement(
            ledger,
            cap=config.caps.max_epsilon,
            delta=config.caps.max_delta,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            site=identity.site,
        )
    signature = sign(identity.key, LABEL, _canonical(content)).hex()
    signed = {
        "statement": content,
        "signature": signature,
        "certificate": to_pem(identity.certificate).decode(),
    }
    page = to_html(content, fingerprint(identity.certificate), signature)
    keyfile.store(target / "statement.json", json.dumps(signed, indent=2).encode() + b"\n")
    keyfile.store(target / "statement.html", page.encode())
    return content


def check_statement(path: Path, authority: x509.Certificate | None) -> Checked:
    """Read a statement and check its signature. Raises StateError, IdentityError.

    authority: who must have issued the signer's certificate; None: anybody, and a person compares
    the certificate's fingerprint.
    """
    raw = keyfile.load(path)
    try:
        signed = json.loads(raw, parse_constant=_no_number)
        content, signature = signed["statement"], bytes.fromhex(signed["signature"])
        certificate = from_pem(str(signed["certificate"]).encode())
        said = str(content["site"])
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise StateError(f"{path}: not a statement of a privacy ledger ({err})") from err
    who = identity_of(certificate)
    if not verify(certificate, LABEL, _canonical(content), signature) or who.name != said:
        raise IdentityError(
            f"{path}: the signature does not hold; the statement was changed after it was made, or "
            "somebody else signed it"
        )
    if authority is not None:  # as of when it was issued: it may have run out since
        check_issued(certificate, authority, role=Role.SITE, now=certificate.not_valid_before_utc)
    return Checked(content, str(who), fingerprint(certificate))


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of a statement")


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
