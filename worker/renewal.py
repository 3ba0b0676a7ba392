"""This site's certificate and its trust, kept current while the daemon runs.

The certificate is renewed for the key that the site enrolled with: peers have pinned that key, so
nobody telephones, and a round at hand goes on. A new study authority is trusted only if the one
trusted here has endorsed it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from primia.config.plan import StudyPlan
from primia.errors import IdentityError, PeerError, PolicyRefused, Unreachable
from primia.identity.certificate import (
    Role,
    check_issued,
    check_key,
    fingerprint,
    from_pem,
    is_issued_by,
    issuer_of,
)
from primia.identity.expiry import Notices, renewal_due
from primia.identity.rotation import check_successor
from primia.storage.audit_log import AuditLog
from primia.wire.handler import StudyBundle
from worker import home
from worker.home import SiteIdentity
from worker.study import Peers

if TYPE_CHECKING:
    from primia.wire.client import FederationClient

log = structlog.get_logger()

RETRY = timedelta(minutes=10)
"""How long after a renewal that failed the next is tried."""


def follow(identity: SiteIdentity, bundle: StudyBundle, *, now: datetime) -> SiteIdentity:
    """The identity with the authorities that `bundle` lets this site trust.

    A newer authority needs the endorsement of the newest trusted here. The older one is dropped
    once the coordinator shows itself with the newer, if our own certificate is of that one, too.
    Raises IdentityError for a newer authority that was not endorsed.
    """
    newest = identity.roots[-1]
    ours_is_newest = is_issued_by(identity.certificate, newest)
    if bundle.succession is not None:
        successor = from_pem(bundle.succession.authority)
        if successor in identity.roots:
            return identity
        check_successor(newest, successor, bundle.succession.endorsement, now=now)
        if ours_is_newest:
            return replace(identity, authority=newest, successor=successor)
    elif ours_is_newest and is_issued_by(from_pem(bundle.coordinator), newest):
        return replace(identity, authority=newest, successor=None)
    return identity


class Renewal:
    """Looks, between two calls, whether something is to be renewed or learnt."""

    def __init__(
        self,
        folder: Path,
        identity: SiteIdentity,
        link: FederationClient,
        audit: AuditLog,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.identity = identity
        self._folder = folder
        self._link = link
        self._audit = audit
        self._roster: tuple[Peers, StudyPlan] | None = None
        self._now = now
        self._notices = Notices()
        self._directory: int | None = None  # the one that we have learnt
        self._not_before = datetime.min.replace(tzinfo=UTC)

    def watch(self, peers: Peers, plan: StudyPlan) -> None:
        """From now on let `peers` know what changes in the roster of `plan`."""
        self._roster = peers, plan

    def look(self, directory: int, *, between_rounds: bool) -> None:
        """Learn what changed in the roster, then as `keep`.

        directory: as the coordinator last said. The roster is left alone within a round: a site
        that was struck meanwhile has signed in it.
        Raises Unreachable (come again), IdentityError when the coordinator refuses this site.
        """
        if between_rounds and directory != self._directory:
            self._learn(self._link.get_study(), directory)
        self.keep()

    def keep(self) -> None:
        """Renew what is due, warn of what ends. Raises IdentityError as `look`."""
        if self.due(self._now()):
            self.renew()
        self._warn()

    def due(self, now: datetime) -> bool:
        """Whether the certificate is near its end, or of an authority that is being replaced."""
        of_newest = is_issued_by(self.identity.certificate, self.identity.roots[-1])
        return now >= self._not_before and (
            not of_newest or renewal_due(self.identity.certificate, now)
        )

    def renew(self) -> None:
        """Ask for a newer certificate, keep it, go on with it. One that failed is tried later."""
        self._not_before = self._now() + RETRY
        try:
            pem = self._link.renew()
        except (Unreachable, PolicyRefused, PeerError) as err:
            self._say_once("certificate_not_renewed", str(err))
            return
        try:
            renewed = self._checked(pem)
        except IdentityError as err:
            self._say_once("certificate_not_renewed", f"the certificate that came is bad: {err}")
            return
        if renewed.certificate != self.identity.certificate:
            self._take(renewed)
            log.info("certificate_renewed", until=f"{renewed.certificate.not_valid_after_utc:%F}")

    def _checked(self, pem: bytes) -> SiteIdentity:
        certificate = from_pem(pem)
        issuer = issuer_of(certificate, self.identity.roots)
        who = check_issued(certificate, issuer, role=Role.SITE, now=self._now())
        if who.site != self.identity.site:
            raise IdentityError(f"it is for {who}")
        check_key(certificate, self.identity.key)
        return replace(self.identity, certificate=certificate)

    def follow(self, bundle: StudyBundle) -> None:
        """Trust the authorities that `bundle` lets this site trust. Raises IdentityError."""
        followed = follow(self.identity, bundle, now=self._now())
        if followed != self.identity:
            self._take(followed)

    def _learn(self, bundle: StudyBundle, directory: int) -> None:
        """What does not hold is not taken; it is asked for again, for a person may mend it."""
        try:
            self.follow(bundle)
            if self._roster is not None:
                peers, plan = self._roster
                peers.learn(bundle.sites, plan)
        except IdentityError as err:
            self._say_once("roster_refused", str(err))
        else:
            self._directory = directory

    def _take(self, identity: SiteIdentity) -> None:
        """On disk first; then the link and the peers go by it."""
        self._audit.append(
            "certificate_renewed",
            certificate=fingerprint(identity.certificate),
            authorities=[fingerprint(root) for root in identity.roots],
        )
        home.store(self._folder, identity)
        if identity.roots != self.identity.roots:
            log.info("authorities_trusted", count=len(identity.roots))
            self._not_before = self._now()
        self.identity = identity
        self._link.use(identity.tls())
        if self._roster is not None:
            self._roster[0].trust(identity.roots)

    def _warn(self) -> None:
        for whose, certificate in (
            ("site", self.identity.certificate),
            ("authority", self.identity.roots[-1]),
        ):
            days = self._notices.expiry(whose, certificate, self._now())
            if days is not None:
                remedy = "it should have been renewed by now; ask the coordinator's operator"
                log.warning("certificate_ends", whose=whose, days_left=days, remedy=remedy)

    def _say_once(self, event: str, reason: str) -> None:
        if self._notices.first_today(event, reason, self._now()):
            log.warning(event, reason=reason)
