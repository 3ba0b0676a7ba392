"""What sites may ask for, in plain Python: authorisation, enrolment, the plan, the rounds."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from coordinator import home
from coordinator.heads import HeadKeeper
from coordinator.refusals import Refusals
from coordinator.rounds import RoundDriver
from coordinator.state import CoordinatorState
from coordinator.upkeep import Upkeep
from primia.config import plan_from_canonical
from primia.errors import IdentityError, PeerError, StateError, Unreachable
from primia.identity.certificate import (
    Identity,
    Role,
    fingerprint,
    is_issued_by,
    to_pem,
)
from primia.identity.heads import Countersigned, SignedHeads
from primia.identity.keyfile import key_to_pem
from primia.protocol.messages import Answer
from primia.roster import struck_text
from primia.storage.blobs import Blobs
from primia.types import Digest, SiteId, sha256
from primia.wire.handler import (
    Attendance,
    Enrolment,
    StudyBundle,
    Succession,
    UploadKey,
    UploadSlot,
)
from primia.wire.server import ServerTls

STANDING_S = 0.5
"""For so long the list of struck sites is not read anew within a call that lasts."""

log = structlog.get_logger()


class Service:
    """The coordinator's answers to its sites (see `primia.wire.handler.FederationHandler`).

    driver: the rounds, once a plan is running; before that sites may enrol and wait.
    stopping: true once the daemon goes down, so that long polls end.
    """

    def __init__(
        self,
        folder: Path,
        state: CoordinatorState,
        blobs: Blobs,
        driver: RoundDriver,
        stopping: Callable[[], bool],
        upkeep: Upkeep | None = None,
    ) -> None:
        self._folder = folder
        self._state = state
        self._blobs = blobs
        self._driver = driver
        self._stopping = stopping
        self._uploads = folder / "uploads"
        self._uploads.mkdir(mode=0o700, exist_ok=True)
        self._sweep(attempt=None)
        self._complete: set[Path] = set()
        self._upkeep = upkeep or Upkeep(folder, state)
        self._struck: set[SiteId] = set()
        self._struck_at = -STANDING_S
        self._refusals = Refusals(state.audit, state.troubles)
        self._heads = HeadKeeper(
            state,
            driver.terms.plan,
            lambda: home.coordinator_identity(folder, state),
            lambda: tuple(home.certificate_of(a.certificate) for a in state.authorities()),
        )

    def authorise(self, identity: Identity, certificate: x509.Certificate) -> None:
        """Roster and struck sites are looked up at every call, on open channels too."""
        if identity.role is Role.SITE:
            try:
                self._state.check_site(SiteId(identity.name), fingerprint(certificate))
            except StateError as err:
                self._driver.fail(err)
                raise
        elif identity.role is not Role.ENROL:
            raise IdentityError(f"{identity} is not a site of this study")

    def refused(self, caller: str, reason: str) -> None:
        """Keep a trace of who was refused and why."""
        self._refusals.note(caller, reason)

    def handshake_failed(self, reason: str) -> None:
        """The same for someone without a certificate that counts; called from a thread of its own,
        which a disk that fails must not end."""
        try:
            self._refusals.note("a failed handshake", reason)
        except StateError as err:
            log.error("refusal_not_kept", reason=str(err))

    def enrol(self, identity: Identity, certificate: x509.Certificate, csr: bytes) -> Enrolment:
        """Use up an invitation; the site's name comes from the invitation, not from the caller."""
        made = home.signing_authority(self._folder, home.serving(self._folder, self._state))

        def issue(site: SiteId) -> tuple[bytes, str]:
            if site != identity.name:
                raise IdentityError("the invitation is for another site; ask for a new one")
            issued = made.issue_site(csr, site, now=home.now(), valid_days=home.CERTIFICATE_DAYS)
            return to_pem(issued), fingerprint(issued)

        pem = self._state.redeem(fingerprint(certificate), _request_key(csr), issue)
        return Enrolment(certificate=pem, authority=to_pem(made.certificate))

    def last_heads(self, identity: Identity, seen: Countersigned | None) -> SignedHeads | None:
        """What is held of this site's books. A worker asks when it starts to take part."""
        self._driver.began_anew(SiteId(identity.name))
        return self._heads.last(SiteId(identity.name), seen)

    def countersign(
        self,
        identity: Identity,
        certificate: x509.Certificate,
        heads: SignedHeads,
        seen: Countersigned | None,
    ) -> Countersigned:
        """Keep newer heads of this site and countersign them."""
        return self._heads.countersign(SiteId(identity.name), certificate, heads, seen)

    def study(self, identity: Identity) -> StudyBundle:  # noqa: ARG002  (the same for every site)
        """The signed plan and the certificates of its roster."""
        study = self._state.study()
        if study is None:
            raise Unreachable("no study has been started yet; wait for the coordinator")
        roster = plan_from_canonical(study.plan).site_ids
        authorities = home.valid_authorities(self._folder, self._state)
        newest = authorities[-1]
        roots = self.roots()
        return StudyBundle(
            plan=study.plan,
            signature=study.signature,
            coordinator=authorities[0].coordinator,
            sites=tuple(
                s.certificate
                for s in self._state.sites()
                if s.site in roster and s.struck_at is None and _holds(s.certificate, roots)
            ),
            succession=Succession(newest.certificate, newest.endorsement)
            if len(authorities) > 1 and newest.endorsement is not None
            else None,
        )

    def renew(self, identity: Identity) -> bytes:
        """A newer certificate for the site's key."""
        return self._upkeep.renew_site(SiteId(identity.name))

    def check_standing(self, identity: Identity) -> None:
        """Raise IdentityError once the site is struck; looked up again after a moment."""
        now = time.monotonic()
        if now - self._struck_at > STANDING_S:
            self._struck, self._struck_at = self._state.struck(), now
        if identity.name in self._struck:
            raise IdentityError(struck_text(SiteId(identity.name), self._state.inviter))

    def roots(self) -> tuple[x509.Certificate, ...]:
        """The authorities whose certificates are valid now, the newer last."""
        rows = home.valid_authorities(self._folder, self._state)
        return tuple(home.certificate_of(row.certificate) for row in rows)

    def tls(self) -> ServerTls:
        """What a new connection is served with."""
        rows = home.valid_authorities(self._folder, self._state)
        return ServerTls(
            certificate=rows[0].coordinator,
            authority=b"".join(row.certificate for row in rows),
            anchors=tuple(self._state.invitation_certificates()),
            key=key_to_pem(home.coordinator_key(self._folder)),
        )

    def attend(self, identity: Identity, after: int, timeout_s: float) -> Attendance:
        """The site's current instruction, or the end, or nothing yet."""
        directory = self._state.directory()

        def to_end() -> bool:
            self.check_standing(identity)  # a site that is struck does not wait to the end
            return self._stopping()

        found = self._driver.attend(SiteId(identity.name), after, timeout_s, to_end)
        if found is None:
            return Attendance(after, directory=directory)
        if isinstance(found, str):
            return Attendance(after, study_over=found, directory=directory)
        return Attendance(found[0], instruction=found[1], directory=directory)

    def answer(self, identity: Identity, answer: Answer) -> None:
        """Hand an answer to the open round."""
        self._driver.answer(SiteId(identity.name), answer)

    def model(self, identity: Identity, digest: Digest) -> Path:  # noqa: ARG002  (the same for all)
        """The file of a committed global model."""
        if not self._state.has_model(digest):
            raise PeerError("no such model in this study; ask for the round's own")
        return self._blobs.path(digest)

    def upload_slot(self, identity: Identity, key: UploadKey) -> UploadSlot:
        """A spool file of this site, round and session alone."""
        site = SiteId(identity.name)
        path = self._uploads / f"{key.round.attempt}-{site}-{sha256(key.session)[:16]}"
        if path in self._complete or self._driver.holds_update(site, key.round, key.session):
            return UploadSlot(path, 0, complete=True)
        slot = UploadSlot(path, self._driver.upload_limit(site, key.round, key.session))
        self._sweep(attempt=key.round.attempt)
        return slot

    def _sweep(self, attempt: int | None) -> None:
        """Delete what uploads of other attempts have left behind."""
        for leftover in self._uploads.iterdir():
            if attempt is None or not leftover.name.startswith(f"{attempt}-"):
                leftover.unlink(missing_ok=True)

    def upload_progress(
        self,
        identity: Identity,
        key: UploadKey,  # noqa: ARG002  (part of the handler's interface)
        received: int,  # noqa: ARG002
        total: int,  # noqa: ARG002
    ) -> None:
        """Bytes are flowing: the stage is not silent."""
        self._driver.progress(SiteId(identity.name))

    def upload_complete(
        self, identity: Identity, key: UploadKey, path: Path, sha256: Digest
    ) -> None:
        """Fold a site's vectors into the sum, once.

        The file is mapped and never read as a whole: however many sites there are, beside the
        sum there are only pages that the system may take back.
        """
        self._state.check_standing(SiteId(identity.name))
        with path.open("rb") as file:
            packed = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        site = SiteId(identity.name)
        self._driver.update_arrived(site, key.round, memoryview(packed), sha256)
        self._complete.add(path)
        path.unlink(missing_ok=True)


def _request_key(csr: bytes) -> str:
    """Digest of the public key in a certificate request: the same request again is known by it."""
    try:
        public = x509.load_pem_x509_csr(csr).public_key()
    except ValueError as err:
        raise IdentityError("the certificate request cannot be read; enrol again") from err
    return sha256(
        public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def _holds(pem: bytes, roots: tuple[x509.Certificate, ...]) -> bool:
    """Whether peers can take a certificate: of a valid authority, and not expired."""
    certificate = home.certificate_of(pem)
    of_ours = any(is_issued_by(certificate, root) for root in roots)
    return of_ours and certificate.not_valid_after_utc > home.now()
