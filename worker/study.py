"""Join the study: check the plan and the peers before anything is trained.

Nothing the coordinator sends is believed on its word. The plan must be signed by the coordinator's
certificate, be the one pinned here, and fit this site's caps; each peer's certificate must come
from the authority and be for the key first seen.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from cryptography import x509

from primia.config import StudyPlan, plan_digest, plan_from_canonical
from primia.config.site import Caps
from primia.errors import IdentityError, PolicyRefused
from primia.identity.certificate import (
    Role,
    check_issued,
    fingerprint,
    from_pem,
    issuer_of,
    key_fingerprint,
)
from primia.identity.signing import verify
from primia.settle import settle
from primia.types import SiteId
from primia.wire.handler import StudyBundle
from primia.wire.labels import PLAN_LABEL, ROUND_LABEL
from worker.home import SiteIdentity
from worker.state import WorkerState
from worker.work import check_plan

log = structlog.get_logger()


def checked_plan(
    bundle: StudyBundle, identity: SiteIdentity, caps: Caps, state: WorkerState
) -> StudyPlan:
    """The plan, if signature and caps hold; it is pinned when people approve it.

    Raises as `signed_plan`, and PolicyRefused (caps, or another plan than the one this folder has
    worked for).
    """
    plan = signed_plan(bundle, identity)
    try:
        spent = check_plan(plan, caps, identity.site)
        state.check_plan(plan_digest(plan))
    except PolicyRefused as err:
        state.audit.append("plan_declined", reason=str(err))
        raise
    log.info(
        "plan_fits",
        study=plan.study,
        plan=plan_digest(plan),
        epsilon="no privacy" if spent is None else round(spent, 3),
    )
    return plan


def signed_plan(bundle: StudyBundle, identity: SiteIdentity) -> StudyPlan:
    """The plan as the coordinator signed it, not yet held against anything of this site.

    Raises IdentityError (signature, certificate), ConfigError (unreadable), PolicyRefused (open
    questions in it).
    """
    coordinator = from_pem(bundle.coordinator)
    issuer = issuer_of(coordinator, identity.roots)
    who = check_issued(coordinator, issuer, role=Role.COORDINATOR, now=datetime.now(UTC))
    if not verify(coordinator, PLAN_LABEL, bundle.plan, bundle.signature):
        raise IdentityError(
            "the plan's signature does not verify; nothing was trained. Tell the coordinator's "
            "operator that the plan was changed on the way"
        )
    plan = plan_from_canonical(bundle.plan)
    if plan.study != who.name:
        raise IdentityError(f"the plan is for the study {plan.study!r}, the coordinator is {who}")
    if settle(plan) != plan:
        raise PolicyRefused("the plan leaves its noise open; the coordinator must settle it first")
    return plan


class Peers:
    """Certificates of the roster, each from the authority and each key pinned when first seen."""

    def __init__(
        self,
        identity: SiteIdentity,
        state: WorkerState,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._now = now
        self._me = identity.site
        self._roots = identity.roots
        self._state = state
        self._known: dict[SiteId, x509.Certificate] = {}

    def trust(self, roots: tuple[x509.Certificate, ...]) -> None:
        """From now on certificates of these authorities hold, and no others."""
        self._roots = roots

    def learn(self, certificates: tuple[bytes, ...], plan: StudyPlan) -> None:
        """Take the roster's certificates (PEM) in, and drop those that are no longer on it.

        Raises IdentityError for one that does not hold; then nothing is dropped or taken.
        """
        known = {}
        for pem in certificates:
            certificate = from_pem(pem)
            if certificate.not_valid_after_utc < self._now():
                continue  # that hospital is refused by everybody until it has a newer one
            issuer = issuer_of(certificate, self._roots)
            who = check_issued(certificate, issuer, role=Role.SITE, now=self._now())
            site = SiteId(who.name)
            if site not in plan.site_ids:
                raise IdentityError(f"{who} is not on the plan's roster; nothing was trained")
            if site != self._me:  # our own may be replaced by enrolling again
                self._state.pin_peer(
                    site, key=key_fingerprint(certificate), certificate=fingerprint(certificate)
                )
            known[site] = certificate
        self._known = known

    def knows(self, sites: set[SiteId]) -> bool:
        """Whether every one of `sites` has a certificate here."""
        return sites <= self._known.keys()

    def verify(self, site: SiteId, statement: bytes, signature: bytes) -> bool:
        """Whether `site`'s certified key, not yet expired, signed a round's statement."""
        certificate = self._known.get(site)
        if certificate is None or certificate.not_valid_after_utc < self._now():
            return False
        return verify(certificate, ROUND_LABEL, statement, signature)
