"""What a coordinator must be able to do for the wire, in plain Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography import x509

from primia.identity.certificate import Identity
from primia.identity.heads import Countersigned, SignedHeads
from primia.protocol.messages import Answer, Instruction, RoundId
from primia.types import Digest

POLL_S = 20.0
"""How long `attend` may wait for something new."""


@dataclass(frozen=True)
class Enrolment:
    """A site's new certificate and the authority that issued it, both PEM."""

    certificate: bytes
    authority: bytes


@dataclass(frozen=True)
class Succession:
    """A newer study authority (PEM) beside the older one, and the older one's endorsement."""

    authority: bytes
    endorsement: bytes


@dataclass(frozen=True)
class StudyBundle:
    """The signed plan, and the certificates against which a site checks it and its peers (PEM)."""

    plan: bytes
    signature: bytes
    coordinator: bytes
    sites: tuple[bytes, ...]
    succession: Succession | None = None  # while two authorities are valid
    clock: float | None = field(default=None, compare=False)  # the coordinator's, when it answered


@dataclass(frozen=True)
class Attendance:
    """What is new for a site: an instruction, or the study's end, or nothing yet.

    serial: number of the instruction, growing; the site sends it back once it is carried out.
    directory: another one than before: certificates or authorities changed, ask for the study.
    """

    serial: int
    instruction: Instruction | None = None
    study_over: str | None = None
    directory: int = 0

    def __post_init__(self) -> None:
        if self.instruction is not None and self.study_over is not None:
            raise ValueError("an attendance is an instruction or the end, not both")


@dataclass(frozen=True)
class UploadKey:
    """Names one masked vector of the calling site."""

    round: RoundId
    session: bytes = field(repr=False)


@dataclass(frozen=True)
class UploadSlot:
    """Where an upload goes.

    path: the spool file, of this site and key alone, in a folder that exists.
    limit: the most bytes it may have; from the plan, never from a message.
    complete: it has arrived and was taken over; further attempts are answered at once.
    """

    path: Path
    limit: int
    complete: bool = False


class FederationHandler(Protocol):
    """Called from many threads at once, always with an identity that was authenticated.

    Raise errors of `primia.errors`; the table in `errors_table` decides what the caller hears.
    Every method may be called again with the same arguments and must then give the same answer.
    """

    def authorise(self, identity: Identity, certificate: x509.Certificate) -> None:
        """Called first in every call. Raise IdentityError to refuse.

        The certificate's form, issuer and dates hold already. Left to decide: a site is on the
        roster, not struck, and this is its current certificate; an invitation (role enrol) is
        the one that was given out (compare the fingerprint). A used one still comes here, for
        the first reply may have been lost.
        """

    def refused(self, caller: str, reason: str) -> None:
        """A call was refused, by its certificate or by `authorise`; `caller` is only a claim."""

    def enrol(self, identity: Identity, certificate: x509.Certificate, csr: bytes) -> Enrolment:
        """Use up the invitation. The same request again: the same reply. Another: IdentityError."""

    def last_heads(self, identity: Identity, seen: Countersigned | None) -> SignedHeads | None:
        """What is held of this site's books; `seen` is the newest countersignature it holds."""

    def countersign(
        self,
        identity: Identity,
        certificate: x509.Certificate,
        heads: SignedHeads,
        seen: Countersigned | None,
    ) -> Countersigned:
        """Keep newer heads of this site and countersign them; PeerError when they go back."""

    def renew(self, identity: Identity) -> bytes:
        """A newer certificate (PEM) for the site's key; the same again while it is fresh.

        Raises Unreachable, with who has to do what, when nothing can be certified now.
        """

    def check_standing(self, identity: Identity) -> None:
        """Called again and again while a call lasts. Raise IdentityError to end it: struck."""

    def study(self, identity: Identity) -> StudyBundle:
        """The plan and the certificates of the roster."""

    def attend(self, identity: Identity, after: int, timeout_s: float) -> Attendance:
        """The current instruction if its serial is above `after`, else wait up to `timeout_s`.

        Must return promptly, with nothing new, when the coordinator stops.
        """

    def answer(self, identity: Identity, answer: Answer) -> None:
        """Take one answer; durable on return."""

    def model(self, identity: Identity, digest: Digest) -> Path:
        """The file of a model of this study. PeerError when there is none."""

    def upload_slot(self, identity: Identity, key: UploadKey) -> UploadSlot:
        """Where this upload goes. RoundFailed when the round is closed or not at uploads."""

    def upload_progress(
        self, identity: Identity, key: UploadKey, received: int, total: int
    ) -> None:
        """Bytes so far; for display, called once per chunk."""

    def upload_complete(
        self, identity: Identity, key: UploadKey, path: Path, sha256: Digest
    ) -> None:
        """The file is whole and has this SHA-256; whether the disk has it already, nobody asked.

        From now on the slot is complete.
        """
