"""The folders of the three roles: made, enrolled, opened and checked.

Model owner  STATE/authority/  identity/model.key model.pem  model-owner.db  material/  given/
Data owner   STATE/identity/   own.key own.pem authority.pem  data-owner.db  given/
Dealer       STATE/identity/   own.key own.pem authority.pem  dealer.db
All three    STATE/audit.jsonl lock
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from primia.errors import ConfigError, IdentityError, StateError
from primia.identity import authority, keyfile
from primia.identity.certificate import (
    CALLED,
    Identity,
    Role,
    check_issued,
    check_key,
    fingerprint,
    from_pem,
    identity_of,
    to_pem,
)
from primia.identity.invitation import Invitation, read_code
from primia.infer.data_store import DataStore
from primia.infer.dealer_store import DealerStore
from primia.infer.model_store import Budget, ModelStore
from primia.storage.folder import StateFolder
from primia.types import SiteId
from primia.wire.channel import ClientTls

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 825
INVITATION_DAYS = 14

DATA_OWNER = "data owner"  # what a study calls a site
ROLE_NAMES = {"data-owner": Role.SITE, "dealer": Role.DEALER}
"""As `primia infer invite` takes them."""


def now() -> datetime:
    """The time of day; aware, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Own:
    """Who this folder is, and whom it trusts. address: of the model owner, as it was enrolled."""

    identity: Identity
    certificate: x509.Certificate
    authority: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    address: str = ""

    def tls(self, server: Role, pinned: bytes = b"") -> ClientTls:
        """What it dials a server of that role with."""
        return ClientTls(
            authority=to_pem(self.authority),
            certificate=to_pem(self.certificate),
            key=keyfile.key_to_pem(self.key),
            server=server,
            pinned=pinned,
        )


# --- the model owner -----------------------------------------------------------------------------


def initialise(folder: Path, service: str) -> str:
    """Make the authority of `service` and the model owner's certificate; returns the fingerprint.

    Raises StateError when the folder is in use, ConfigError for a bad name.
    """
    try:
        who = Identity(Role.MODEL, service)
    except ValueError as err:
        raise ConfigError(
            f"{service!r} is not a service name: use lower-case letters, digits and hyphens"
        ) from err
    with StateFolder(folder):
        made = authority.create(folder / "authority", service, now=now(), valid_days=AUTHORITY_DAYS)
        key = keyfile.new_key()
        mine = made.issue(who, key.public_key(), now=now(), valid_days=CERTIFICATE_DAYS)
        keyfile.store_key(folder / "identity" / "model.key", key)
        keyfile.store(folder / "identity" / "model.pem", to_pem(mine))
        store = ModelStore(folder)
        store.audit.append("authority_made", study=service, fingerprint=made.fingerprint)
        store.add_authority(to_pem(made.certificate), coordinator=to_pem(mine))
        store.note("service", service)
        store.close()
    return made.fingerprint


def made_before(folder: Path, service: str) -> str | None:
    """The fingerprint of the authority that `folder` holds for `service`; None for a new folder.

    Raises ConfigError when the folder was made for another service.
    """
    if not (folder / "model-owner.db").exists():
        return None
    store = ModelStore(folder)
    try:
        known = store.noted("service")
        if known is not None and known != service:
            raise ConfigError(
                f"{folder} was made for the service {known!r}; give {service} its own folder"
            )
        valid = [] if known is None else store.valid_authorities()
        return fingerprint(from_pem(valid[0].certificate)) if valid else None
    finally:
        store.close()


def open_model(folder: Path) -> tuple[ModelStore, Own]:
    """The model owner's store and identity. Raises StateError or IdentityError."""
    if not (folder / "model-owner.db").exists():
        raise StateError(
            f"{folder} belongs to no model owner; make one: primia infer init NAME --state {folder}"
        )
    store = ModelStore(folder)
    (row,) = store.valid_authorities()
    root = from_pem(row.certificate)
    mine = from_pem(keyfile.load(folder / "identity" / "model.pem"))
    who = check_issued(mine, root, role=Role.MODEL, now=now())
    key = keyfile.load_key(folder / "identity" / "model.key")
    check_key(mine, key)
    return store, Own(who, mine, root, key)


@dataclass(frozen=True)
class Invited:
    """A one-time invitation, and the authority's fingerprint.

    replaced: a code given out before is void now. budget: a data owner's.
    """

    invitation: Invitation
    fingerprint: str
    replaced: bool
    budget: Budget | None


def invite(
    folder: Path,
    role: str,
    name: SiteId,
    address: str,
    *,
    films: int | None = None,
    per_day: int | None = None,
) -> Invited:
    """Make a one-time invitation.

    films, per_day: a data owner's query budget, if it is not the usual one.
    Raises StateError when that name is enrolled, or when there is another dealer.
    """
    if role not in ROLE_NAMES:
        raise ConfigError(f"{role!r} is neither {' nor '.join(ROLE_NAMES)}")
    store, own = open_model(folder)
    try:
        enrolled = {s.site for s in store.enrolled()}
        dealer = store.noted("dealer")
        if name in enrolled:
            raise StateError(
                f"{name} is enrolled; strike it first if it has to enrol again: "
                f"primia infer roster --strike {name}"
            )
        if role == "dealer" and dealer in enrolled:
            raise StateError(
                f"{dealer} is the dealer; one is enough, and two would have to be trusted: strike "
                f"it first: primia infer roster --strike {dealer}"
            )
        if role == "data-owner" and name == dealer:
            raise StateError(f"{name} is the dealer's name; the dealer must be somebody else")
        made = Invitation(
            address=address,
            site=name,
            authority=bytes.fromhex(fingerprint(own.authority).replace(":", "")),
            secret=os.urandom(32),
            not_after=(now() + timedelta(days=INVITATION_DAYS)).replace(microsecond=0),
        )
        certificate = made.certificate()
        if role == "dealer":
            store.note("dealer", name)
        elif films is not None or per_day is not None:
            store.set_budget(name, films=films, per_day=per_day)
        replaced = store.add_invitation(
            fingerprint=fingerprint(certificate),
            site=name,
            pem=to_pem(certificate),
            expires=made.not_after.timestamp(),
        )
        allowed = None if role == "dealer" else store.budget(name)
    finally:
        store.close()
    return Invited(made, fingerprint(own.authority), replaced, allowed)


def has_certificate(folder: Path, role: str, name: SiteId) -> bool:
    """Is `name` enrolled in that role, and not struck? Raises StateError."""
    store, _ = open_model(folder)
    try:
        enrolled = any(s.site == name for s in store.enrolled())
        return enrolled and (store.noted("dealer") == name) == (role == "dealer")
    finally:
        store.close()


# --- data owner and dealer -----------------------------------------------------------------------


def enrol(folder: Path, code: str, expected: str | None, *, dealer: str | None = None) -> Own:
    """Turn a code into an identity in `folder`, of the role that the model owner invited to.

    expected: the authority's fingerprint heard by telephone; dealer: the dealer's.
    Raises IdentityError, Unreachable, StateError; nothing is trusted then.
    """
    from primia.wire.client import enrol as ask

    invitation = read_code(code)
    if expected is not None and plain(expected) != plain(invitation.fingerprint):
        raise IdentityError(
            f"the code is for the authority {invitation.fingerprint}, not for the fingerprint "
            "given; do not enrol, and call the model owner's operator"
        )
    if dealer is not None and len(plain(dealer)) != 64:
        raise IdentityError(f"{dealer!r} is not a fingerprint, which has 32 pairs such as ab:0c:…")
    with StateFolder(folder):
        identity = folder / "identity"
        if is_enrolled(folder) or (folder / "model-owner.db").exists():
            raise StateError(f"{folder} belongs to somebody already; choose another --state folder")
        path = identity / "own.key"
        # The key is on disk before it is certified: a reply that gets lost can be asked for again.
        if not path.exists():
            keyfile.store_key(path, keyfile.new_key())
        enrolled = ask(
            invitation,
            keyfile.load_key(path),
            server=Role.MODEL,
            roles=(Role.SITE, Role.DEALER),
        )
        who = identity_of(enrolled.certificate)
        store = DataStore(folder) if who.role is Role.SITE else DealerStore(folder)
        store.note("address", invitation.address)
        store.note("model", identity_of(enrolled.coordinator).name)
        if dealer is not None and isinstance(store, DataStore):
            store.note("dealer", plain(dealer))
        store.audit.append(
            "enrolled",
            site=who.name,
            certificate=fingerprint(enrolled.certificate),
            authority=fingerprint(enrolled.authority),
        )
        store.close()
        keyfile.store(identity / "authority.pem", to_pem(enrolled.authority))
        keyfile.store(identity / "own.pem", to_pem(enrolled.certificate))
    return load(folder, who.role)


def is_enrolled(folder: Path) -> bool:
    """Does `folder` hold an identity? The certificate is what enrolment stores last."""
    return (folder / "identity" / "own.pem").exists()


def load(folder: Path, role: Role) -> Own:
    """Read an enrolled identity back and check it. Raises IdentityError or StateError."""
    if not is_enrolled(folder):
        raise StateError(
            f"nobody enrolled in {folder}; run: primia infer enrol CODE-FILE --state {folder}"
        )
    certificate = from_pem(keyfile.load(folder / "identity" / "own.pem"))
    if identity_of(certificate).role is not role:
        raise StateError(
            f"{folder} belongs to the {called(identity_of(certificate))}, this is for a "
            f"{CALLED.get(role, DATA_OWNER)}"
        )
    root = from_pem(keyfile.load(folder / "identity" / "authority.pem"))
    who = check_issued(certificate, root, role=role, now=now())
    key = keyfile.load_key(folder / "identity" / "own.key")
    check_key(certificate, key)
    store = DataStore(folder) if role is Role.SITE else DealerStore(folder)
    address = store.noted("address") or ""
    store.close()
    return Own(who, certificate, root, key, address)


def called(identity: Identity) -> str:
    """Somebody in messages and logs."""
    return f"{CALLED.get(identity.role, DATA_OWNER)} {identity.name}"


def plain(text: str) -> str:
    """A fingerprint as 64 lower-case digits, however it was written."""
    return "".join(c for c in text.lower() if c in "0123456789abcdef")
