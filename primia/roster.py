"""Who may take part, in the database of who invites: authorities, invitations, sites.

`directory` counts what a site has to hear of: a change of authorities or of certificates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from primia.errors import IdentityError, StateError
from primia.identity.certificate import fingerprint as fingerprint_of
from primia.identity.certificate import from_pem
from primia.storage.audit_log import AuditLog
from primia.storage.book import Book
from primia.types import SiteId

OVERLAP_S = 3600.0
"""How long a site's older certificate is still taken once its newer one has been used."""


@dataclass(frozen=True)
class AuthorityRow:
    """A study authority: the first one made, or one that an older one endorsed.

    coordinator: the coordinator's own certificate from this authority. All certificates in PEM.
    """

    number: int
    certificate: bytes
    endorsement: bytes | None
    coordinator: bytes
    made_at: float
    retired_at: float | None


@dataclass(frozen=True)
class OpenInvitation:
    """A code that was given out and not used."""

    site: SiteId
    expires_at: float


@dataclass(frozen=True)
class Site:
    """One enrolled hospital.

    seen: whether it has called with this very certificate since it got it by renewal.
    """

    site: SiteId
    certificate: bytes  # PEM
    fingerprint: str
    enrolled_at: float
    struck_at: float | None
    last_seen: float | None
    seen: bool


SCHEMA = """
    CREATE TABLE invitations (
        fingerprint TEXT PRIMARY KEY, site TEXT NOT NULL, certificate BLOB NOT NULL,
        expires_at REAL NOT NULL, request_key TEXT, issued BLOB
    ) STRICT;
    CREATE TABLE sites (
        site TEXT PRIMARY KEY, certificate BLOB NOT NULL, fingerprint TEXT NOT NULL,
        enrolled_at REAL NOT NULL, struck_at REAL, last_seen REAL, previous TEXT,
        previous_until REAL
    ) STRICT;
    CREATE TABLE authorities (
        number INTEGER PRIMARY KEY, certificate BLOB NOT NULL, endorsement BLOB,
        coordinator BLOB NOT NULL, made_at REAL NOT NULL, retired_at REAL
    ) STRICT;
"""
"""The tables of a new database; the coordinator's own migrations end in the same ones."""


class Roster(Book):
    """The part of the coordinator's, or a model owner's, database that says who is who.

    Each change is on the audit log before its row is in the database.
    """

    audit: AuditLog
    inviter = "coordinator"  # what messages call whoever invites

    # --- authorities -------------------------------------------------------------------------

    def add_authority(
        self, certificate: bytes, *, coordinator: bytes, endorsement: bytes | None = None
    ) -> None:
        """Make an authority valid beside the one before it, if there is one; the commit point."""
        with self._db.transaction() as db:
            if endorsement is not None:
                self.audit.append(
                    "authority_rotated", fingerprint=fingerprint_of(from_pem(certificate))
                )
            db.execute(
                "INSERT INTO authorities (certificate, endorsement, coordinator, made_at) "
                "VALUES (?, ?, ?, ?)",
                (certificate, endorsement, coordinator, self._clock()),
            )
            _directory_changed(db)

    def authorities(self) -> list[AuthorityRow]:
        """Every authority of the study, oldest first, retired ones included."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT * FROM authorities ORDER BY number").fetchall()
        return [AuthorityRow(**dict(row)) for row in rows]

    def valid_authorities(self) -> list[AuthorityRow]:
        """One, or during a rotation two, the newer last."""
        return [a for a in self.authorities() if a.retired_at is None]

    def renew_coordinator(self, number: int, coordinator: bytes) -> None:
        """Replace the coordinator's own certificate from authority `number`."""
        made = fingerprint_of(from_pem(coordinator))
        with self._db.transaction() as db:
            self.audit.append("coordinator_renewed", certificate=made)
            db.execute(
                "UPDATE authorities SET coordinator = ? WHERE number = ?", (coordinator, number)
            )
            _directory_changed(db)

    def retire_authority(self, old: AuthorityRow) -> None:
        """End the overlap; the codes that were given out under the old authority are void."""
        with self._db.transaction() as db:
            self.audit.append(
                "authority_retired", fingerprint=fingerprint_of(from_pem(old.certificate))
            )
            db.execute(
                "UPDATE authorities SET retired_at = ? WHERE number = ?",
                (self._clock(), old.number),
            )
            db.execute("DELETE FROM invitations WHERE issued IS NULL")
            _directory_changed(db)

    def directory(self) -> int:
        """Another number than before: certificates or authorities have changed."""
        return int(self.noted("directory") or 0)

    # --- invitations -------------------------------------------------------------------------

    def add_invitation(self, *, fingerprint: str, site: SiteId, pem: bytes, expires: float) -> bool:
        """Keep the public half of an invitation; an earlier unused one for the site is void.

        Returns whether there was one that could still have been used.
        """
        with self._db.transaction() as db:
            void = db.execute(
                "DELETE FROM invitations WHERE site = ? AND issued IS NULL RETURNING expires_at",
                (site,),
            ).fetchall()
            self.audit.append(
                "site_invited", site=site, fingerprint=fingerprint, expires=int(expires)
            )
            db.execute(
                "INSERT INTO invitations VALUES (?, ?, ?, ?, NULL, NULL)",
                (fingerprint, site, pem, expires),
            )
        return any(row["expires_at"] > self._clock() for row in void)

    def open_invitations(self) -> list[OpenInvitation]:
        """Codes that somebody may still use, by site."""
        with self._db.transaction() as db:
            rows = db.execute(
                "SELECT site, expires_at FROM invitations WHERE issued IS NULL AND expires_at > ? "
                "ORDER BY site",
                (self._clock(),),
            ).fetchall()
        return [OpenInvitation(SiteId(r["site"]), r["expires_at"]) for r in rows]

    def invitation_certificates(self) -> list[bytes]:
        """Enrolment certificates (PEM) that may open a connection: used ones too, until expiry.

        A used code then gets the clear answer that it was used, not a broken handshake.
        """
        with self._db.transaction() as db:
            rows = db.execute(
                "SELECT certificate FROM invitations WHERE expires_at > ?", (self._clock(),)
            ).fetchall()
        return [row["certificate"] for row in rows]

    def redeem(
        self, fingerprint: str, request_key: str, issue: Callable[[SiteId], tuple[bytes, str]]
    ) -> bytes:
        """The site certificate (PEM) for an invitation, made by `issue` once.

        request_key: digest of the key in the request; the same request again gets the same
        certificate (its reply was lost), another key is refused.
        Raises IdentityError when the invitation is unknown, void or used.
        """
        with self._db.transaction() as db:
            row = db.execute(
                "SELECT * FROM invitations WHERE fingerprint = ?", (fingerprint,)
            ).fetchone()
            if row is None:
                raise IdentityError(
                    f"this invitation is void; ask the {self.inviter} for a new one"
                )
            if row["issued"] is not None:
                if row["request_key"] == request_key:
                    return bytes(row["issued"])
                raise IdentityError(
                    "this invitation was used before; if that was not you, tell the "
                    f"{self.inviter}'s operator, and ask for a new one"
                )
            site = SiteId(row["site"])
            pem, site_fingerprint = issue(site)
            self.audit.append("site_enrolled", site=site, certificate=site_fingerprint)
            db.execute(
                "UPDATE invitations SET request_key = ?, issued = ? WHERE fingerprint = ?",
                (request_key, pem, fingerprint),
            )
            db.execute(
                "INSERT OR REPLACE INTO sites (site, certificate, fingerprint, enrolled_at) "
                "VALUES (?, ?, ?, ?)",
                (site, pem, site_fingerprint, self._clock()),
            )
            _directory_changed(db)
        return pem

    # --- sites -------------------------------------------------------------------------------

    def enrolled(self) -> list[Site]:
        """Those that were not struck."""
        return [s for s in self.sites() if s.struck_at is None]

    def sites(self) -> list[Site]:
        """Every hospital that ever enrolled, by name."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT * FROM sites ORDER BY site").fetchall()
        return [
            Site(
                SiteId(r["site"]), r["certificate"], r["fingerprint"], r["enrolled_at"],
                r["struck_at"], r["last_seen"],
                seen=r["previous"] is None or r["previous_until"] is not None,
            )
            for r in rows
        ]  # fmt: skip

    def renew_site(self, site: SiteId, pem: bytes, fingerprint: str, *, held: str) -> None:
        """Replace a site's certificate, of fingerprint `held`, by a newer one for the same key.

        The older one is taken until the newer one was used, for the reply may get lost, and for
        `OVERLAP_S` after that. Of one that was never used, the one before it stays.
        Raises IdentityError when the site was struck, or enrolled with another key, meanwhile.
        """
        with self._db.transaction() as db:
            done = db.execute(
                "UPDATE sites SET certificate = :pem, fingerprint = :fingerprint, previous = "
                "CASE WHEN previous IS NOT NULL AND previous_until IS NULL THEN previous "
                "ELSE fingerprint END, previous_until = NULL "
                "WHERE site = :site AND fingerprint = :held AND struck_at IS NULL",
                {"pem": pem, "fingerprint": fingerprint, "site": site, "held": held},
            )
            if done.rowcount != 1:
                raise IdentityError(
                    f"{site} was struck or has enrolled again while its certificate was renewed; "
                    "the newer one holds"
                )
            self.audit.append("site_renewed", site=site, certificate=fingerprint)
            _directory_changed(db)

    def struck(self) -> set[SiteId]:
        """The sites that are refused."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT site FROM sites WHERE struck_at IS NOT NULL").fetchall()
        return {SiteId(row["site"]) for row in rows}

    def check_standing(self, site: SiteId) -> None:
        """Raise IdentityError when `site` is struck."""
        if site in self.struck():
            raise IdentityError(struck_text(site, self.inviter))

    def strike(self, site: SiteId) -> None:
        """Refuse `site` from its next call on, and void the codes it has not used yet.

        Raises StateError when there is nothing to refuse.
        """
        with self._db.transaction() as db:
            void = db.execute("DELETE FROM invitations WHERE site = ? AND issued IS NULL", (site,))
            done = db.execute(
                "UPDATE sites SET struck_at = ? WHERE site = ? AND struck_at IS NULL",
                (self._clock(), site),
            )
            if done.rowcount == 0 and void.rowcount == 0:
                raise StateError(f"{site} is not on the roster, or was struck before")
            self.audit.append("site_struck", site=site)
            _directory_changed(db)

    def check_site(self, site: SiteId, fingerprint: str) -> None:
        """Raise IdentityError unless this very certificate stands on the roster; note the visit."""
        now = self._clock()
        with self._db.transaction() as db:
            row = db.execute("SELECT * FROM sites WHERE site = ?", (site,)).fetchone()
            if row is None:
                raise IdentityError(
                    f"{site} is not enrolled here; ask the {self.inviter} for an invitation"
                )
            if row["struck_at"] is not None:
                raise IdentityError(struck_text(site, self.inviter))
            if row["fingerprint"] == fingerprint:
                if row["previous"] is not None and row["previous_until"] is None:
                    db.execute(
                        "UPDATE sites SET previous_until = ? WHERE site = ?",
                        (now + OVERLAP_S, site),
                    )
            elif row["previous"] != fingerprint or now > (row["previous_until"] or now):
                raise IdentityError(
                    f"{site} has a newer certificate than this one; if this is a copy of an older "
                    "folder, restore the newer one, else enrol again"
                )
            if row["last_seen"] is None or now - row["last_seen"] > 5.0:
                db.execute("UPDATE sites SET last_seen = ? WHERE site = ?", (now, site))


def struck_text(site: SiteId, inviter: str) -> str:
    """What a site hears that was struck."""
    return f"{site} was struck from the roster; ask the {inviter}'s operator"


def _directory_changed(db: Any) -> None:
    db.execute(
        "INSERT INTO meta VALUES ('directory', '1') "
        "ON CONFLICT (key) DO UPDATE SET value = value + 1"
    )
