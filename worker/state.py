"""What a worker remembers across restarts: the pinned plan, its peers, its updates, its promises.

An update is stored before it is charged, and charged before it leaves. A site that is asked for
the same round again offers the same bytes, so one round shows one noised update and no more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primia.errors import IdentityError, PolicyRefused, StateError
from primia.identity.heads import Countersigned
from primia.protocol.messages import RoundId, RoundKind
from primia.protocol.site_events import KeysMade, Record, SharesRevealed, SurvivorsSigned
from primia.storage.audit_log import EMPTY, FILE, AuditLog, Head
from primia.storage.book import Book
from primia.storage.disk import DISK, Disk
from primia.types import Digest, SiteId
from worker import guard, journal

_MIGRATIONS = [
    """
    CREATE TABLE peers (
        site TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, pinned_at REAL NOT NULL
    ) STRICT;
    CREATE TABLE updates (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        plan TEXT NOT NULL, number INTEGER NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,
        digest TEXT NOT NULL, made_at REAL NOT NULL, signed TEXT, retired_at REAL
    ) STRICT;
    CREATE TABLE promises (
        id INTEGER PRIMARY KEY AUTOINCREMENT, attempt INTEGER NOT NULL, kind TEXT NOT NULL,
        content TEXT NOT NULL, made_at REAL NOT NULL, UNIQUE (attempt, kind)
    ) STRICT;
    """,
    """
    CREATE TABLE scores (
        model TEXT PRIMARY KEY, number INTEGER NOT NULL, score REAL NOT NULL
    ) STRICT;
    """,
    # -1 for updates of before: nobody knows, so with shared noise they are not offered again.
    "ALTER TABLE updates ADD COLUMN keys_before INTEGER NOT NULL DEFAULT -1",
    """
    CREATE TABLE decisions (
        id INTEGER PRIMARY KEY AUTOINCREMENT, approved INTEGER NOT NULL,
        plan TEXT NOT NULL, cohort TEXT NOT NULL, policy TEXT NOT NULL,
        films INTEGER NOT NULL, patients INTEGER NOT NULL,
        name TEXT NOT NULL, role TEXT NOT NULL, account TEXT NOT NULL, reason TEXT NOT NULL,
        made_at REAL NOT NULL
    ) STRICT;
    """,
    # Promises of before there was an audit log.
    """
    INSERT INTO meta SELECT 'audit_from', coalesce(max(attempt), 0) FROM promises
    WHERE kind = 'KeysMade';
    """,
    # Pins of before hold a certificate; it gives its key when it is next shown.
    "ALTER TABLE peers ADD COLUMN key TEXT",
    journal.SCHEMA,
    # NULL for updates of before: nobody knows, so they are not offered again.
    "ALTER TABLE updates ADD COLUMN cohort TEXT",
    guard.SCHEMA,
    guard.REFUSED,
]

DOMINATED = "dominated"
"""Noted once a step's clipped sum was mostly one patient's; it never leaves, and is not logged."""

PROMISE_EVENTS = {
    "KeysMade": "keys_made",
    "SurvivorsSigned": "survivors_signed",
    "SharesRevealed": "shares_revealed",
}
"""What the audit log calls each kind of promise."""


@dataclass(frozen=True)
class Decision:
    """What a person decided about a plan and a cohort; see `worker.approval`.

    A refusal is about everything before it, so its plan, cohort and policy are empty.
    account: the operating system's name for who typed it.
    """

    id: int
    approved: bool
    plan: Digest
    cohort: Digest
    policy: str
    films: int
    patients: int
    name: str
    role: str
    account: str
    reason: str
    made_at: float


@dataclass(frozen=True)
class StoredUpdate:
    """An encoded contribution on disk.

    keys_before: the last attempt that keys were made for when it was stored.
    signed: the survivors it was promised to, if any.
    cohort: the approved films it was made of, by the digest of their manifest.
    """

    id: int
    digest: Digest
    keys_before: int
    signed: tuple[SiteId, ...] | None
    cohort: Digest | None = None


class WorkerState(Book):
    """The worker's database. Raises StateError for faults of the disk."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.time, disk: Disk = DISK
    ) -> None:
        super().__init__(folder / "worker.db", _MIGRATIONS, clock, disk, secret=journal.TABLES)
        self.audit = AuditLog(folder / FILE, clock, disk)
        self.journal = journal.JournalBook(self._db, clock)
        self.models = guard.ModelBook(self._db, clock)

    def pin_plan(self, digest: Digest) -> None:
        """Hold on to the plan that was approved. Raises PolicyRefused for any other one, once this
        site has worked for it: two plans could ask for the counts of one model over other sites.
        """
        self.check_plan(digest)
        if self.noted("plan") != digest:
            self.audit.append("plan_pinned", plan=digest)
        self.note("plan", digest)

    def check_plan(self, digest: Digest) -> None:
        """Raise PolicyRefused when this folder has worked for another plan."""
        pinned = self.noted("plan")
        if pinned in (None, digest):
            return
        with self._db.transaction() as db:
            worked = db.execute("SELECT 1 FROM updates WHERE plan = ?", (pinned,)).fetchone()
        if worked is not None:
            raise PolicyRefused(
                f"the coordinator's plan changed from {pinned[:16]}… to {digest[:16]}…; this site "
                "stays with the plan it has worked for; tell the lead to bring that plan back"
            )

    def add_decision(
        self,
        *,
        approved: bool,
        plan: str = "",
        cohort: str = "",
        policy: str = "",
        films: int = 0,
        patients: int = 0,
        name: str,
        role: str,
        account: str,
        reason: str = "",
    ) -> None:
        """Record an approval, or a refusal of everything approved before."""
        with self._db.transaction() as db:
            if approved:
                self.audit.append(
                    "plan_approved", plan=plan, cohort=cohort, policy=policy, name=name, role=role
                )
            else:
                self.audit.append("plan_refused", name=name, role=role, reason=reason)
            db.execute(
                "INSERT INTO decisions (approved, plan, cohort, policy, films, patients, name, "
                "role, account, reason, made_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    int(approved), plan, cohort, policy, films, patients, name, role, account,
                    reason, self._clock(),
                ),
            )  # fmt: skip

    def decisions(self) -> list[Decision]:
        """All decisions, oldest first."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT * FROM decisions ORDER BY id").fetchall()
        return [Decision(**{**dict(row), "approved": bool(row["approved"])}) for row in rows]

    def accept_model(self, model: Digest, *, name: str, role: str, account: str) -> None:
        """Record that a person here answers for a model that the guard refused.

        Raises PolicyRefused for one that it never did: nobody answers for models unseen.
        """
        if not self.models.refused(model):
            raise PolicyRefused(
                f"this site has refused no model {model[:16]}…; copy the digest from the refusal "
                "in the log, and name the --state of the worker that refused it"
            )
        self.audit.append("model_accepted", model=model, name=name, role=role)
        self.models.accept(model, name=name, role=role, account=account)

    def pin_peer(self, site: SiteId, *, key: str, certificate: str) -> None:
        """Hold on to a peer's key as first seen. Raises IdentityError for another one.

        The authority's key lies with the coordinator, which could otherwise put itself in the
        place of a peer at any time. A renewed certificate has the same key, and the same pin.
        key, certificate: fingerprints.
        """
        with self._db.transaction() as db:
            row = db.execute("SELECT * FROM peers WHERE site = ?", (site,)).fetchone()
            if row is None:
                self.audit.append("peer_pinned", site=site, key=key)
                db.execute(
                    "INSERT INTO peers VALUES (?, ?, ?, ?)", (site, certificate, self._clock(), key)
                )
            elif row["key"] == key or (row["key"] is None and row["fingerprint"] == certificate):
                db.execute(
                    "UPDATE peers SET key = ?, fingerprint = ? WHERE site = ?",
                    (key, certificate, site),
                )
            else:
                raise IdentityError(
                    f"{site} now shows another key ({key}) than the one pinned here "
                    f"({row['key'] or 'of the certificate ' + row['fingerprint']}); compare by "
                    "telephone with what `primia-worker peers` shows there as its own, then run: "
                    f"primia-worker peers --forget {site}"
                )

    def peers(self) -> dict[SiteId, str]:
        """Pinned peers and their keys' fingerprints; of older pins, the certificates'."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT * FROM peers ORDER BY site").fetchall()
        return {SiteId(r["site"]): r["key"] or r["fingerprint"] for r in rows}

    def forget_peer(self, site: SiteId) -> bool:
        """Drop a pin, because a person has checked the new certificate; False if there is none."""
        with self._db.transaction() as db:
            known = db.execute("DELETE FROM peers WHERE site = ?", (site,)).rowcount == 1
            if known:
                self.audit.append("peer_forgotten", site=site)
        return known

    def add_update(
        self, round_id: RoundId, digest: Digest, cohort: Digest | None = None
    ) -> StoredUpdate:
        """Record an encoded contribution, made of `cohort`, whose blob is durable."""
        keys_before = self.last_attempt()
        with self._db.transaction() as db:
            cursor = db.execute(
                "INSERT INTO updates "
                "(plan, number, model, kind, digest, made_at, keys_before, cohort) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    round_id.plan, round_id.number, round_id.model, round_id.kind.value, digest,
                    self._clock(), keys_before, cohort,
                ),
            )  # fmt: skip
        assert cursor.lastrowid is not None
        return StoredUpdate(cursor.lastrowid, digest, keys_before, None, cohort)

    def update(self, number: int) -> StoredUpdate:
        """The contribution with this id, which `add_update` gave."""
        with self._db.transaction() as db:
            return _stored(db.execute("SELECT * FROM updates WHERE id = ?", (number,)).fetchone())

    def update_for(self, round_id: RoundId) -> StoredUpdate | None:
        """The contribution made for this round and model in an earlier attempt, if any."""
        with self._db.transaction() as db:
            row = db.execute(
                "SELECT * FROM updates WHERE plan = ? AND number = ? AND model = ? AND kind = ? "
                "AND retired_at IS NULL ORDER BY id DESC",
                (round_id.plan, round_id.number, round_id.model, round_id.kind.value),
            ).fetchone()
        return None if row is None else _stored(row)

    def check_model(self, round_id: RoundId) -> None:
        """One model for each round and one round for each model, and never back to an older one.

        Otherwise a coordinator could ask what any number of models make of the films, or have
        one model counted in two sums and read off their difference. A round that trains again
        counts nothing, so it may start from a model of an earlier round, and may follow upon a
        round that counts; never the other way round. Raises PolicyRefused.
        """
        this = {
            "plan": round_id.plan, "number": round_id.number, "model": round_id.model,
            "kind": round_id.kind.value, "again": round_id.kind is RoundKind.RETRAIN,
        }  # fmt: skip
        with self._db.transaction() as db:
            row = db.execute(
                "SELECT number, model FROM updates WHERE plan = :plan AND (number > :number "
                "OR (number = :number AND (model <> :model "
                "    OR kind <> :kind AND NOT (kind = 'train' AND :again))) "
                "OR (number < :number AND model = :model AND NOT :again)) ORDER BY number DESC",
                this,
            ).fetchone()
        if row is not None:
            raise PolicyRefused(
                f"round {round_id.number}: this site has answered round {row['number']} for the "
                f"model {row['model'][:16]}…, and does not answer both"
            )

    def add_score(self, round_id: RoundId, score: float) -> tuple[float, float | None]:
        """Keep how this site's validation films fare under a round's model; it never leaves.

        Returns the score kept for the model, the first one if there are several, and the best of
        the models of earlier rounds, None for the first round: the same at every repeat. Left out
        is what the study took back: a model between two rounds that train from one and the same.
        """
        with self._db.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO scores VALUES (?, ?, ?)",
                (round_id.model, round_id.number, score),
            )
            kept = db.execute(
                "SELECT score FROM scores WHERE model = ?", (round_id.model,)
            ).fetchone()
            best = db.execute(
                "SELECT max(score) AS top FROM scores WHERE number < ? AND NOT EXISTS ("
                "    SELECT 1 FROM updates AS first JOIN updates AS again USING (plan, model) "
                "    WHERE first.number < scores.number AND scores.number < again.number)",
                (round_id.number,),
            ).fetchone()
        return kept["score"], best["top"]

    def retire_update(self, update: StoredUpdate) -> None:
        """Never offer this contribution again; the next attempt makes and charges a new one."""
        with self._db.transaction() as db:
            db.execute("UPDATE updates SET retired_at = ? WHERE id = ?", (self._clock(), update.id))

    def holds_update(self, digest: Digest) -> bool:
        """Whether this contribution was recorded here."""
        with self._db.transaction() as db:
            row = db.execute("SELECT 1 FROM updates WHERE digest = ?", (digest,)).fetchone()
        return row is not None

    def updates_from(self, number: int) -> set[Digest]:
        """Blobs of round `number` and later ones; those of earlier rounds are of no more use."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT digest FROM updates WHERE number >= ?", (number,)).fetchall()
        return {Digest(r["digest"]) for r in rows}

    def last_attempt(self) -> int:
        """The highest attempt that this site made keys for; 0 for none."""
        with self._db.transaction() as db:
            row = db.execute(
                "SELECT max(attempt) AS top FROM promises WHERE kind = 'KeysMade'"
            ).fetchone()
        return int(row["top"] or 0)

    def promised(self, attempt: int, kind: str) -> bool:
        """Whether a promise of this kind (`KeysMade`, …) is on record for the attempt."""
        with self._db.transaction() as db:
            row = db.execute(
                "SELECT 1 FROM promises WHERE attempt = ? AND kind = ?", (attempt, kind)
            ).fetchone()
        return row is not None

    def remember(self, record: Record, update: StoredUpdate | None) -> None:
        """Make a promise durable; the same one again is harmless, another one is refused.

        Raises PolicyRefused when this attempt already has a different promise of the kind: a peer
        would be opened both ways.
        """
        kind = type(record).__name__
        content = json.dumps(_content(record), sort_keys=True)
        with self._db.transaction() as db:
            row = db.execute(
                "SELECT content FROM promises WHERE attempt = ? AND kind = ?",
                (record.round.attempt, kind),
            ).fetchone()
            if row is not None:
                if row["content"] != content:
                    raise PolicyRefused(
                        f"attempt {record.round.attempt}: this site has already bound itself "
                        "otherwise; it takes no further part in the attempt"
                    )
                return
            db.execute(
                "INSERT INTO promises (attempt, kind, content, made_at) VALUES (?, ?, ?, ?)",
                (record.round.attempt, kind, content, self._clock()),
            )
            if isinstance(record, SurvivorsSigned) and update is not None:
                db.execute(
                    "UPDATE updates SET signed = ? WHERE id = ?",
                    (json.dumps(list(record.survivors)), update.id),
                )
        self._audit_promise(kind, record.round.attempt, content)

    def _audit_promise(self, kind: str, attempt: int, content: str) -> None:
        """A promise on the audit log: the row binds this site already, nothing was sent yet."""
        found = json.loads(content)
        event = PROMISE_EVENTS[kind]
        fields = {name: found[name] for name in ("survivors", "lost") if name in found}
        self.audit.append(event, round=found["number"], attempt=attempt, **fields)

    def keep_countersigned(self, answer: Countersigned) -> None:
        """Hold on to the coordinator's newest word for our heads."""
        self.note("countersigned", answer.to_json())

    def countersigned(self) -> Countersigned | None:
        """What `keep_countersigned` kept."""
        text = self.noted("countersigned")
        return None if text is None else Countersigned.from_json(text)

    def check_audit(self) -> None:
        """Database and audit log must be of one age; the newest promise is logged if a crash came
        between the two. Raises StateError."""
        seen = self.countersigned()
        self.audit.verify(
            EMPTY if seen is None else Head(seen.heads.audit.count, seen.heads.audit.digest)
        )
        since = int(self.noted("audit_from") or 0)
        with self._db.transaction() as db:
            rows = db.execute(
                "SELECT attempt, kind, content FROM promises WHERE attempt > ? "
                "ORDER BY id DESC LIMIT 2",
                (since,),
            ).fetchall()
        for kind, event in PROMISE_EVENTS.items():
            line = self.audit.last(event)
            if line is not None and not self.promised(line.fields["attempt"], kind):
                raise StateError(
                    f"worker.db is older than the audit log beside it (it has forgotten {event} of "
                    f"attempt {line.fields['attempt']}); restore the newest copy of both"
                )
        if rows[1:] and not self._is_logged(rows[1]):
            raise StateError(
                f"{self.audit.path}: the audit log is older than worker.db beside it (attempt "
                f"{rows[1]['attempt']} is missing); restore the newest copy of both"
            )
        if rows and not self._is_logged(rows[0]):
            self._audit_promise(rows[0]["kind"], rows[0]["attempt"], rows[0]["content"])

    def _is_logged(self, promise: Any) -> bool:
        line = self.audit.last(PROMISE_EVENTS[promise["kind"]])
        return line is not None and bool(line.fields["attempt"] >= promise["attempt"])


def _stored(row: Any) -> StoredUpdate:
    signed = None if row["signed"] is None else tuple(json.loads(row["signed"]))
    return StoredUpdate(row["id"], Digest(row["digest"]), row["keys_before"], signed, row["cohort"])


def _content(record: Record) -> dict[str, object]:
    round_id = record.round
    content: dict[str, object] = {
        "plan": round_id.plan, "number": round_id.number, "model": round_id.model,
    }  # fmt: skip
    match record:
        case KeysMade():
            pass
        case SurvivorsSigned(session=session, survivors=survivors):
            content |= {"session": session.hex(), "survivors": list(survivors)}
        case SharesRevealed(session=session, survivors=survivors, lost=lost):
            content |= {
                "session": session.hex(), "survivors": list(survivors), "lost": list(lost),
            }  # fmt: skip
    return content
