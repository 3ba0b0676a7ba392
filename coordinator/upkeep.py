"""Certificates kept alive while the daemon runs: sites' on request, the coordinator's by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator import home
from coordinator.reasons import NOT_RENEWED
from coordinator.state import CoordinatorState
from primia.errors import PrimiaError, StateError, Unreachable
from primia.identity.certificate import fingerprint, is_issued_by, to_pem
from primia.identity.expiry import Notices, renewal_due
from primia.roster import AuthorityRow
from primia.types import SiteId

log = structlog.get_logger()

LOOK_S = 60.0


class Upkeep:
    """Renews what is due; needs an authority's key, which may be offline, only for that."""

    def __init__(
        self,
        folder: Path,
        state: CoordinatorState,
        now: Callable[[], datetime] = home.now,
    ) -> None:
        self._folder = folder
        self._state = state
        self._now = now
        self._notices = Notices()
        self._renewing = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Look once a minute until `stop` is set."""
        while not stop.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Renew the coordinator's own certificates if due; say what ends soon, once a day."""
        try:
            rows = home.valid_authorities(self._folder, self._state)
            for row in rows:
                if renewal_due(home.certificate_of(row.coordinator), self._now()):
                    self._renew_own(row)
        except PrimiaError as err:
            if self._notices.first_today("renewal", str(err), self._now()):
                log.warning("coordinator_certificate_not_renewed", reason=str(err))
                self._note("", err)
        self._warn()

    def _note(self, who: str, err: PrimiaError) -> None:
        try:
            self._state.troubles.note(NOT_RENEWED, who, str(err))
        except StateError as disk:  # this thread looks again in a minute
            log.error("trouble_not_kept", reason=str(disk))

    def renew_site(self, site: SiteId) -> bytes:
        """A certificate (PEM) of the newest authority for the key that the site enrolled with.

        One that was issued before and is fresh is given again: its reply may have been lost.
        Raises Unreachable, which the site hears, when the authority's key is offline.
        """
        newest = home.valid_authorities(self._folder, self._state)[-1]
        with self._renewing:
            row = next(s for s in self._state.sites() if s.site == site)
            held = home.certificate_of(row.certificate)
            if self._fresh(held, home.certificate_of(newest.certificate)):
                return row.certificate
            try:
                authority = home.signing_authority(self._folder, newest)
            except StateError as err:
                if self._notices.first_today("site", site, self._now()):
                    log.warning("site_certificate_not_renewed", site=site, reason=str(err))
                    self._note(site, err)
                raise Unreachable(
                    "the study authority is offline, so no certificate can be renewed; the "
                    "coordinator's operator puts the folder authority/ back for a while"
                ) from err
            key = held.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)  # `redeem` took no other
            made = authority.renew_site(
                key, site, now=self._now(), valid_days=home.CERTIFICATE_DAYS
            )
            self._state.renew_site(site, to_pem(made), fingerprint(made), held=row.fingerprint)
        log.info("site_certificate_renewed", site=site, until=_day(made))
        return to_pem(made)

    def _fresh(self, held: x509.Certificate, newest: x509.Certificate) -> bool:
        """Not due, or ending with its authority: another one would not last longer."""
        ends_with_it = held.not_valid_after_utc >= newest.not_valid_after_utc
        due = renewal_due(held, self._now()) and not ends_with_it
        return is_issued_by(held, newest) and not due

    def _renew_own(self, row: AuthorityRow) -> None:
        root = home.certificate_of(row.certificate)
        if self._fresh(home.certificate_of(row.coordinator), root):
            return
        authority = home.signing_authority(self._folder, row)
        made = authority.issue_coordinator(
            home.coordinator_key(self._folder).public_key(),
            self._state.noted("study") or "",
            now=self._now(),
            valid_days=home.CERTIFICATE_DAYS,
        )
        self._state.renew_coordinator(row.number, to_pem(made))
        log.info("coordinator_certificate_renewed", until=_day(made))

    def _warn(self) -> None:
        row = self._state.valid_authorities()[0]
        for whose, pem, remedy in (
            ("coordinator", row.coordinator, "put the folder authority/ back; it is then renewed"),
            ("authority", row.certificate, "run: primia-coordinator authority rotate"),
        ):
            days = self._notices.expiry(whose, home.certificate_of(pem), self._now())
            if days is not None:
                log.warning("certificate_ends", whose=whose, days_left=days, remedy=remedy)


def _day(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_after_utc:%Y-%m-%d}"
