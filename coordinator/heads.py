"""What the coordinator holds of each site's books, and what each site holds of the coordinator's.

Nobody's books go back unseen: a site is refused heads older than those it signed before, and a
countersignature that this audit log does not hold shows that this folder was put back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.rows import HeadTrouble
from coordinator.state import CoordinatorState
from primia.errors import IdentityError, PeerError
from primia.identity.certificate import from_pem, to_pem
from primia.identity.heads import Countersigned, Mark, SignedHeads, countersign
from primia.storage.audit_log import Head
from primia.types import Digest, SiteId

log = structlog.get_logger()

MOST_IN_ATTEMPT = 50  # lines on our disk that a site causes while an attempt is the newest


class HeadKeeper:
    """Countersigns heads of the study's sites.

    identity: the coordinator's certificate and key, as they are now; authorities: all that the
    study ever had.
    """

    def __init__(
        self,
        state: CoordinatorState,
        plan: Digest,
        identity: Callable[[], tuple[x509.Certificate, ec.EllipticCurvePrivateKey]],
        authorities: Callable[[], tuple[x509.Certificate, ...]],
    ) -> None:
        self._state = state
        self._plan = plan
        self._identity = identity
        self._authorities = authorities
        self._lock = threading.Lock()
        self._caused: dict[SiteId, tuple[int, int]] = {}  # newest attempt, lines since it is

    def last(self, site: SiteId, seen: Countersigned | None) -> SignedHeads | None:
        """The newest heads of `site`, as it signed them."""
        self._look_back(site, seen)
        kept = self._state.kept_heads(site)
        return None if kept is None else kept[0]

    def countersign(
        self,
        site: SiteId,
        certificate: x509.Certificate,
        signed: SignedHeads,
        seen: Countersigned | None,
    ) -> Countersigned:
        """Keep newer heads of `site`, and sign them with our own; the same again: the same answer.

        certificate: of the caller. Raises PeerError, with nothing kept: not this site's, not of
        this study, signed by another key, or gone back.
        """
        heads = signed.heads
        if heads.site != site or heads.plan != self._plan:
            raise PeerError("heads of another site or study than the caller's")
        signer = from_pem(signed.certificate)  # may be the one before a renewal: of the same key
        if signer.public_key() != certificate.public_key() or not signed.holds():
            raise PeerError("the heads are not signed by the key of the caller's certificate")
        if heads.attempt > self._state.newest_attempt():
            raise PeerError(f"heads of attempt {heads.attempt}, which was never opened")
        self._look_back(site, seen)
        with self._lock:
            return self._newer(signed)

    def _newer(self, signed: SignedHeads) -> Countersigned:
        heads, site = signed.heads, signed.heads.site
        kept = self._state.kept_heads(site)
        if kept is not None and kept[0].heads == heads:
            return kept[1]
        lines = self._count(site)
        why = None if kept is None else heads.went_back(kept[0].heads)
        if why is not None:
            self._refuse(site, heads.attempt, why)
        return self._sign(signed, lines)

    def _count(self, site: SiteId) -> int:
        """By our own newest attempt: a site may name any that there was. Raises PeerError."""
        newest = self._state.newest_attempt()
        attempt, lines = self._caused.get(site, (newest, 0))
        lines = lines + 1 if attempt == newest else 1
        if lines > MOST_IN_ATTEMPT:
            raise PeerError("the heads of this attempt were countersigned often enough; go on")
        self._caused[site] = newest, lines
        return lines

    def _sign(self, signed: SignedHeads, lines: int) -> Countersigned:
        heads = signed.heads
        head = self._state.audit.append(
            "heads_countersigned",
            site=heads.site,
            attempt=heads.attempt,
            ledger=heads.ledger.count,
            ledger_digest=heads.ledger.digest,
            audit=heads.audit.count,
            audit_digest=heads.audit.digest,
            signature=signed.signature.hex(),
        )
        mine, key = self._identity()
        answer = countersign(heads, Mark(head.lines, head.digest), key, to_pem(mine))
        self._state.keep_heads(signed, answer, lines)
        return answer

    def _refuse(self, site: SiteId, attempt: int, why: str) -> None:
        log.warning("heads_refused", site=site, attempt=attempt, reason=why)
        if self._state.add_head_trouble(HeadTrouble(site, "site", attempt, why)):
            self._state.audit.append("heads_refused", site=site, attempt=attempt, reason=why)
        raise PeerError(
            f"{why}; the worker's folder was put back to an older copy, or two workers run on "
            "copies of it"
        )

    def _look_back(self, site: SiteId, seen: Countersigned | None) -> None:
        """Is our own audit log still the one that this site saw? If not, say so, and go on.

        To restore a backup is legal, and the study goes on from it; but people have to know.
        """
        if seen is None or seen.heads.site != site or seen.heads.plan != self._plan:
            return
        if self._state.audit.holds(Head(seen.audit.count, seen.audit.digest)):
            return
        try:
            seen.check(self._authorities())
        except IdentityError as err:
            raise PeerError(f"{err}; the worker's folder is damaged") from err
        why = f"line {seen.audit.count} of the audit log, which this site countersigned, is missing"
        trouble = HeadTrouble(site, "coordinator", seen.heads.attempt, why)
        if self._state.add_head_trouble(trouble):
            log.warning("coordinator_rolled_back", site=site, line=seen.audit.count)
            self._state.audit.append(
                "coordinator_rolled_back",
                site=site,
                lines=seen.audit.count,
                digest=seen.audit.digest,
            )


def compare_books(state: CoordinatorState) -> None:
    """Are database and audit log of one age? If not, log and audit it; the study goes on.

    Each attempt is on the audit log before its row is in the database.
    """
    line = state.audit.last("round_opened")
    logged = int(state.noted("audit_from") or 0) if line is None else int(line.fields["attempt"])
    stored = state.newest_attempt()
    if logged - stored in (0, 1):
        return
    older = "the audit log" if logged < stored else "coordinator.db"
    why = f"{older} is an older copy: it ends with attempt {min(logged, stored)}, the other with "
    why += f"{max(logged, stored)}"
    log.warning("books_differ", reason=why)
    state.add_head_trouble(HeadTrouble(None, "coordinator", stored, why))
    state.audit.append("books_differ", database=stored, log=logged)
