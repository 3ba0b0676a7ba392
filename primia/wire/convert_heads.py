"""Heads and countersignatures between protobuf and dataclasses; what is odd is a PeerError."""

from __future__ import annotations

from primia.errors import PeerError
from primia.identity.heads import Countersigned, Mark, SignedHeads, SiteHeads
from primia.types import site_id
from primia.wire.convert import digest
from primia.wire.v1 import federation_pb2 as pb

_MOST = 2**53  # entries of a chain: what JSON and SQLite hold exactly
_MAX_PEM = 16 << 10


def signed_to_pb(signed: SignedHeads) -> pb.SignedHeads:
    """A site's signed heads."""
    return pb.SignedHeads(
        heads=_heads_to_pb(signed.heads),
        signature=signed.signature,
        certificate=signed.certificate,
    )


def signed_from_pb(message: pb.SignedHeads) -> SignedHeads:
    """Read signed heads; whether the signature holds is not looked at. Raises PeerError."""
    signature, certificate = _signed(message.signature, message.certificate)
    return SignedHeads(_heads_from_pb(message.heads), signature, certificate)


def countersigned_to_pb(found: Countersigned) -> pb.Countersigned:
    """A countersignature."""
    return pb.Countersigned(
        heads=_heads_to_pb(found.heads),
        audit=_mark_to_pb(found.audit),
        signature=found.signature,
        certificate=found.certificate,
    )


def countersigned_from_pb(message: pb.Countersigned) -> Countersigned:
    """Read a countersignature; whether it holds is not looked at. Raises PeerError."""
    signature, certificate = _signed(message.signature, message.certificate)
    return Countersigned(
        _heads_from_pb(message.heads), _mark(message.audit), signature, certificate
    )


def _heads_to_pb(heads: SiteHeads) -> pb.SiteHeads:
    return pb.SiteHeads(
        plan=bytes.fromhex(heads.plan),
        site=heads.site,
        attempt=heads.attempt,
        ledger=_mark_to_pb(heads.ledger),
        audit=_mark_to_pb(heads.audit),
    )


def _heads_from_pb(message: pb.SiteHeads) -> SiteHeads:
    try:
        site = site_id(message.site)
    except ValueError as err:
        raise PeerError(str(err)) from err
    if message.attempt > _MOST:
        raise PeerError(f"heads of attempt {message.attempt}; there is none such")
    return SiteHeads(
        plan=digest(message.plan, "plan"),
        site=site,
        attempt=message.attempt,
        ledger=_mark(message.ledger),
        audit=_mark(message.audit),
    )


def _mark_to_pb(mark: Mark) -> pb.Mark:
    return pb.Mark(count=mark.count, digest=bytes.fromhex(mark.digest))


def _mark(message: pb.Mark) -> Mark:
    if message.count > _MOST:
        raise PeerError(f"a chain of {message.count} entries; there is none such")
    return Mark(message.count, digest(message.digest, "head"))


def _signed(signature: bytes, certificate: bytes) -> tuple[bytes, bytes]:
    if not 8 <= len(signature) <= 72:
        raise PeerError(f"a signature of {len(signature)} bytes; 8 to 72 are expected")
    if not 0 < len(certificate) <= _MAX_PEM or not certificate.isascii():
        raise PeerError("heads without the certificate of their signature")
    return signature, certificate
