"""What sites may ask for, in plain Python: authorisation, enrolment, the plan, the rounds."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from coordinator import home
from coordinator.heads import HeadKeeper
from coordinator.refusals import Refusals
from coordinator.rounds import RoundDriver
from coordinator.state import CoordinatorState
from primia.config import plan_from_canonical
from primia.errors import IdentityError, PeerError, Unreachable
from primia.identity import authority
from primia.identity.certificate import Identity, Role, fingerprint, to_pem
from primia.identity.heads import Countersigned, SignedHeads
from primia.protocol.messages import Answer
from primia.storage.blobs import Blobs
from primia.types import Digest, SiteId, sha256
from primia.wire.handler import Attendance, Enrolment, StudyBundle, UploadKey, UploadSlot


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
        self._refusals = Refusals(state.audit)
        self._heads = HeadKeeper(
            state,
            driver.terms.plan,
            lambda: home.coordinator_identity(folder),
            lambda: home.authority_certificate(folder),
        )

    def authorise(self, identity: Identity, certificate: x509.Certificate) -> None:
        """Roster and struck sites are looked up at every call, on open channels too."""
        if identity.role is Role.SITE:
            self._state.check_site(SiteId(identity.name), fingerprint(certificate))
        elif identity.role is not Role.ENROL:
            raise IdentityError(f"{identity} is not a site of this study")

    def refused(self, caller: str, reason: str) -> None:
        """Keep a trace of who was refused and why."""
        self._refusals.note(caller, reason)

    def enrol(self, identity: Identity, certificate: x509.Certificate, csr: bytes) -> Enrolment:
        """Use up an invitation; the site's name comes from the invitation, not from the caller."""
        made = authority.load(self._folder / "authority")

        def issue(site: SiteId) -> tuple[bytes, str]:
            if site != identity.name:
                raise IdentityError("the invitation is for another site; ask for a new one")
            issued = made.issue_site(csr, site, now=home.now(), valid_days=home.CERTIFICATE_DAYS)
            return to_pem(issued), fingerprint(issued)

        pem = self._state.redeem(fingerprint(certificate), _request_key(csr), issue)
        return Enrolment(certificate=pem, authority=to_pem(made.certificate))

    def last_heads(self, identity: Identity, seen: Countersigned | None) -> SignedHeads | None:
        """What is held of this site's books."""
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
        certificate, _ = home.coordinator_identity(self._folder)
        return StudyBundle(
            plan=study.plan,
            signature=study.signature,
            coordinator=to_pem(certificate),
            sites=tuple(
                s.certificate
                for s in self._state.sites()
                if s.site in roster and s.struck_at is None
            ),
        )

    def attend(self, identity: Identity, after: int, timeout_s: float) -> Attendance:
        """The site's current instruction, or the end, or nothing yet."""
        found = self._driver.attend(SiteId(identity.name), after, timeout_s, self._stopping)
        if found is None:
            return Attendance(after)
        if isinstance(found, str):
            return Attendance(after, study_over=found)
        return Attendance(found[0], instruction=found[1])

    def answer(self, identity: Identity, answer: Answer) -> None:
        """Hand an answer to the open round."""
        self._driver.answer(SiteId(identity.name), answer)

    def model(self, identity: Identity, digest: Digest) -> Path:  # noqa: ARG002  (the same for all)
        """The file of a committed global model."""
        if digest not in {m.digest for m in self._state.models()}:
            raise PeerError("no such model in this study; ask for the round's own")
        return self._blobs.path(digest)

    def upload_slot(self, identity: Identity, key: UploadKey) -> UploadSlot:
        """A spool file of this site, round and session alone."""
        site = SiteId(identity.name)
        path = self._uploads / f"{key.round.attempt}-{site}-{sha256(key.session)[:16]}"
        if path in self._complete:
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
