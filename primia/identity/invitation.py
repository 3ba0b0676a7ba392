"""One-time codes. The secret in a code never crosses the wire.

From the secret both sides derive the same P-256 key and the same self-signed *enrolment
certificate*, byte for byte. The coordinator keeps only that certificate (public) and puts it
among its TLS trust anchors while the invitation lasts; the worker proves knowledge of the code
in the mutual TLS handshake. So the one port speaks mutual TLS from the first byte, a stolen
coordinator database opens no invitation, and a listener learns nothing that it could replay.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID

from primia.errors import ConfigError, IdentityError
from primia.identity.authority import common_name, key_usage
from primia.identity.certificate import Identity, Role
from primia.types import SiteId, sha256, site_id

VERSION = 1
PREFIX = "primia1-"
_CHECK = 3  # bytes; a typo slips through once in 2^24
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_START = datetime(2024, 1, 1, tzinfo=UTC)  # fixed, because both sides must write the same bytes


@dataclass(frozen=True)
class Invitation:
    """What a code carries.

    address: host:port of the coordinator, as the hospital dials it.
    authority: SHA-256 of the study authority's certificate (DER), 32 bytes.
    secret: 32 bytes from the operating system; never printed, stored or sent.
    not_after: aware, whole seconds.
    """

    address: str
    site: SiteId
    authority: bytes
    not_after: datetime
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        split_address(self.address)
        if len(self.authority) != 32 or len(self.secret) != 32:
            raise ValueError("authority and secret are 32 bytes each")
        if len(self.address) > 253 + 6:
            raise ValueError("address is longer than a host name can be")

    @property
    def fingerprint(self) -> str:
        """The authority's fingerprint in the form that `invite` printed."""
        return self.authority.hex(":")

    def code(self) -> str:
        """The text that a person carries from the coordinator to the hospital."""
        site = self.site.encode("ascii")
        payload = b"".join(
            (
                bytes([VERSION]),
                self.authority,
                self.secret,
                int(self.not_after.timestamp()).to_bytes(5, "big"),
                bytes([len(site)]),
                site,
                self.address.encode("ascii"),
            )
        )
        text = base64.urlsafe_b64encode(payload + _checksum(payload)).decode("ascii")
        return PREFIX + text.rstrip("=")

    def key(self) -> ec.EllipticCurvePrivateKey:
        """The enrolment key: HKDF-SHA256 (RFC 5869) of the secret, reduced to a scalar.

        48 bytes reduced modulo n - 1, plus 1: the bias is below 2^-128 and no value is ever
        rejected (FIPS 186-5, A.2.1, "extra random bits").
        """
        info = b"primia enrolment key v1\0" + self.site.encode("ascii")
        wide = HKDF(hashes.SHA256(), length=48, salt=self.authority, info=info).derive(self.secret)
        scalar = int.from_bytes(wide, "big") % (_P256_ORDER - 1) + 1
        return ec.derive_private_key(scalar, ec.SECP256R1())

    def certificate(self) -> x509.Certificate:
        """The enrolment certificate: the same bytes on both sides (ECDSA as in RFC 6979).

        Not a CA: an anchor that could sign would let its holder mint site certificates that
        pass the handshake. Its subject says nothing of the site, because a TLS server shows the
        subjects of its trust anchors to whoever connects.
        """
        key = self.key()
        point = key.public_key().public_numbers()
        tag = sha256(point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big"))
        name = common_name(f"primia enrolment {tag[:16]}")
        names = [x509.UniformResourceIdentifier(Identity(Role.ENROL, self.site).uri)]
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(int(tag[16:46], 16) + 1)
            .not_valid_before(_START)
            .not_valid_after(self.not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
        )


def read_code(text: str) -> Invitation:
    """Read a code as pasted (white space and line breaks are dropped).

    Raises IdentityError that tells a typo from a code of another version.
    """
    code = "".join(text.split())
    if not code.startswith(PREFIX):
        raise IdentityError(
            f"this is not an invitation code: it should begin with {PREFIX!r}; copy it whole"
        )
    body = code[len(PREFIX) :]
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as err:
        raise IdentityError(
            "the invitation code has a typo or a missing part; copy it again"
        ) from err
    payload, check = raw[:-_CHECK], raw[-_CHECK:]
    if len(payload) < 72 or _checksum(payload) != check:
        raise IdentityError("the invitation code has a typo or a missing part; copy it again")
    if payload[0] != VERSION:
        raise IdentityError(
            f"the invitation code has version {payload[0]}, this program reads {VERSION}; "
            "use the same version of primia as the coordinator"
        )
    end = 71 + payload[70]
    try:
        return Invitation(
            address=payload[end:].decode("ascii"),
            site=site_id(payload[71:end].decode("ascii")),
            authority=payload[1:33],
            secret=payload[33:65],
            not_after=datetime.fromtimestamp(int.from_bytes(payload[65:70], "big"), UTC),
        )
    except (ValueError, OverflowError, OSError, ConfigError) as err:
        raise IdentityError(
            "the invitation code is whole but holds nonsense; ask for a new one"
        ) from err


_ADDRESS = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})"
)


def split_address(text: str, *, port_zero: bool = False) -> tuple[str, int]:
    """'host:port' or '[v6]:port' → (host, port). Raises ConfigError with the form expected.

    port_zero: for listening only, where it means a port of the system's choice.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or not (0 if port_zero else 1) <= int(match["port"]) < 65536:
        raise ConfigError(
            f"{text!r} is not an address; write it as host:port, such as lab.example:8443"
        )
    return match["six"] or match["host"], int(match["port"])


def _checksum(payload: bytes) -> bytes:
    return bytes.fromhex(sha256(b"primia invitation\0" + payload)[: 2 * _CHECK])
