"""What the coordinator remembers: one SQLite file; the row is the commit point.

Models and server states are blobs beside it, named by digest and written first. Every method is
one transaction. The commands that only look (`status`, `rounds`, `why`) open the same file while
the daemon runs; WAL lets them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator import troubles
from coordinator.reasons import NOT_ENOUGH
from coordinator.rows import (
    AttemptRow,
    HeadTrouble,
    ModelRow,
    Participation,
    PinnedStudy,
    Verdict,
    attempt_row,
    model_row,
)
from coordinator.schema import MIGRATIONS
from primia.errors import StateError
from primia.identity.heads import Countersigned, SignedHeads
from primia.protocol.messages import Outcome, RoundId, RoundKind
from primia.roster import Roster
from primia.storage.audit_log import FILE, AuditLog
from primia.storage.disk import DISK, Disk
from primia.types import Digest, SiteId


class CoordinatorState(Roster):
    """The coordinator's database. Raises StateError for faults of the disk."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.time, disk: Disk = DISK
    ) -> None:
        # The authority may be kept offline.
        if not (disk.exists(folder / "coordinator.db") or disk.exists(folder / "authority")):
            raise StateError(
                f"{folder.resolve()} is no coordinator's folder; name it with --state or "
                f"PRIMIA_STATE, or make a new one: primia-coordinator init STUDY --state {folder}"
            )
        super().__init__(folder / "coordinator.db", MIGRATIONS, clock, disk)
        self.folder = folder
        self.audit = AuditLog(folder / FILE, clock, disk)
        self.troubles = troubles.TroubleBook(self._db, clock)
        self._closed: list[AttemptRow] = []  # read before; no row of these changes any more

    # --- the plan ----------------------------------------------------------------------------

    def pin_study(self, study: PinnedStudy, model: ModelRow) -> None:
        """Keep the plan and its model 0, together; a study has one plan, for ever.

        Raises StateError when another one is pinned.
        """
        known = self.study()
        if known is not None:
            if known.digest != study.digest:
                raise StateError(
                    f"this folder runs the plan {known.digest[:16]}…, not {study.digest[:16]}…; a "
                    "plan never changes once started: use a new state folder for a new plan"
                )
            return
        with self._db.transaction() as db:
            self.audit.append("plan_pinned", plan=study.digest)
            db.execute(
                "INSERT INTO study VALUES (1, ?, ?, ?, ?, ?)",
                (study.plan, study.signature, study.digest, study.parameters, self._clock()),
            )
            self._insert_model(db, replace(model, accepted=True))  # nobody has trained it

    def study(self) -> PinnedStudy | None:
        """The pinned plan, or None before the first start."""
        with self._db.transaction() as db:
            row = db.execute("SELECT * FROM study").fetchone()
        if row is None:
            return None
        return PinnedStudy(row["plan"], row["signature"], Digest(row["digest"]), row["parameters"])

    # --- heads -------------------------------------------------------------------------------

    def kept_heads(self, site: SiteId) -> tuple[SignedHeads, Countersigned, int] | None:
        """A site's newest heads, our answer, and how many there were in an attempt."""
        with self._db.transaction() as db:
            row = db.execute("SELECT * FROM heads WHERE site = ?", (site,)).fetchone()
        if row is None:
            return None
        heads = SignedHeads.from_json(row["heads"])
        return heads, Countersigned.from_json(row["answer"]), row["times"]

    def keep_heads(self, heads: SignedHeads, answer: Countersigned, times: int) -> None:
        """Hold on to a site's heads, in place of older ones."""
        with self._db.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?)",
                (heads.heads.site, heads.to_json(), answer.to_json(), times),
            )

    def add_head_trouble(self, found: HeadTrouble) -> bool:
        """Keep the newest trouble of its kind; False when it was known in this attempt already."""
        site = found.site or ""
        with self._db.transaction() as db:
            known = db.execute(
                "SELECT 1 FROM head_troubles WHERE site = ? AND whose = ? AND attempt = ?",
                (site, found.whose, found.attempt),
            ).fetchone()
            db.execute(
                "INSERT OR REPLACE INTO head_troubles VALUES (?, ?, ?, ?, ?)",
                (site, found.whose, found.attempt, found.reason, self._clock()),
            )
        return known is None

    def head_troubles(self) -> list[HeadTrouble]:
        """What went back, as found so far."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT * FROM head_troubles ORDER BY found_at").fetchall()
        return [
            HeadTrouble(SiteId(r["site"]) or None, r["whose"], r["attempt"], r["reason"])
            for r in rows
        ]

    def outcomes(self) -> dict[str, int]:
        """How many attempts ended in which way."""
        with self._db.transaction() as db:
            rows = db.execute(
                "SELECT outcome, count(*) AS times FROM attempts WHERE outcome IS NOT NULL "
                "GROUP BY outcome"
            ).fetchall()
        return {row["outcome"]: row["times"] for row in rows}

    def newest_attempt(self) -> int:
        """The highest attempt that was opened; 0 for none."""
        with self._db.transaction() as db:
            row = db.execute("SELECT max(attempt) AS top FROM attempts").fetchone()
        return int(row["top"] or 0)

    # --- rounds ------------------------------------------------------------------------------

    def open_attempt(self, plan: Digest, number: int, kind: RoundKind, model: Digest) -> RoundId:
        """Begin an attempt; its number is above every earlier one, also across restarts."""
        with self._db.transaction() as db:
            cursor = db.execute(
                "INSERT INTO attempts (number, kind, model, opened_at, phase, waiting_for) "
                "VALUES (?, ?, ?, ?, 'training', '[]')",
                (number, kind.value, model, self._clock()),
            )
            assert cursor.lastrowid is not None
            self.audit.append(
                "round_opened", round=number, attempt=cursor.lastrowid, kind=kind.value, model=model
            )
        return RoundId(plan, number, cursor.lastrowid, kind, model)

    def readmit(self, site: SiteId) -> None:
        """What this site missed so far no longer counts (`coordinator.bench`).

        Raises StateError for a site that is not enrolled.
        """
        if site not in {s.site for s in self.enrolled()}:
            raise StateError(f"{site} is not on the roster; invite it first")
        last = self.newest_attempt()
        self.audit.append("site_readmitted", site=site, attempt=last)
        self.note(f"readmitted {site}", str(last))

    def readmitted(self) -> dict[SiteId, int]:
        """The last attempt at the time when a site was readmitted, for those that were."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT * FROM meta WHERE key LIKE 'readmitted %'").fetchall()
        return {SiteId(r["key"].partition(" ")[2]): int(r["value"]) for r in rows}

    def set_phase(
        self,
        attempt: int,
        phase: str,
        waiting_for: Iterable[str],
        *,
        ready: Iterable[str],
        survivors: Iterable[str],
        carried: tuple[str, Iterable[Digest] | None] | None = None,
    ) -> None:
        """Where the open attempt stands, who had an update ready, who is asked to sign for whom.

        carried: what it is resumed from, and the blobs (durable) of its sums; None: the same ones.
        """
        with self._db.transaction() as db:
            if carried is not None:
                text, sums = carried
                db.execute(
                    "UPDATE attempts SET carried = ?, sums = coalesce(?, sums) WHERE attempt = ?",
                    (text, None if sums is None else json.dumps(list(sums)), attempt),
                )
            db.execute(
                "UPDATE attempts SET phase = ?, waiting_for = ?, ready = ?, survivors = ? "
                "WHERE attempt = ?",
                (
                    phase,
                    *(json.dumps(sorted(x)) for x in (waiting_for, ready, survivors)),
                    attempt,
                ),
            )

    def blobs_in_use(self) -> set[Digest]:
        """Every blob that a row names: models, server states, sums of the open attempt."""
        with self._db.transaction() as db:
            models = db.execute("SELECT digest, state FROM models").fetchall()
            open_ = db.execute("SELECT sums FROM attempts WHERE outcome IS NULL").fetchall()
        named = [d for row in models for d in (row["digest"], row["state"])]
        return {Digest(d) for d in named + [d for row in open_ for d in json.loads(row["sums"])]}

    def abort_attempt(
        self, attempt: int, reason: str, sites: Iterable[Participation], *, code: str = NOT_ENOUGH
    ) -> None:
        """End an attempt without a sum."""
        self._close(attempt, Outcome.ABORTED, reason, None, sites, None, None, code=code)

    def commit_attempt(
        self,
        attempt: int,
        sites: Iterable[Participation],
        *,
        verdict: Verdict | None,
        model: ModelRow | None,
        update_norm: float | None,
    ) -> None:
        """End an attempt with its sum, in one transaction: record, verdict, and the next model.

        verdict: on the model the round started from; None when it was counted before.
        model: what the round made, its blobs already durable; None for an evaluation.
        """
        self._close(attempt, Outcome.COMMITTED, "", update_norm, sites, verdict, model)

    def _close(
        self,
        attempt: int,
        outcome: Outcome,
        reason: str,
        update_norm: float | None,
        sites: Iterable[Participation],
        verdict: Verdict | None,
        model: ModelRow | None,
        *,
        code: str = "",
    ) -> None:
        sites = list(sites)
        with self._db.transaction() as db:
            done = db.execute(
                "UPDATE attempts SET outcome = ?, reason = ?, code = ?, update_norm = ?, "
                "closed_at = ?, phase = ?, waiting_for = '[]', carried = NULL, sums = '[]' "
                "WHERE attempt = ? AND outcome IS NULL",
                (
                    outcome.value, reason, code, update_norm, self._clock(),
                    "done" if outcome is Outcome.COMMITTED else "aborted", attempt,
                ),
            )  # fmt: skip
            if done.rowcount != 1:
                raise StateError(f"attempt {attempt} is closed already; an outcome is final")
            self._record_end(db, attempt, outcome, reason, sites, model)
            db.executemany(
                "INSERT INTO participation VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (attempt, p.site, p.charged, p.contributed, p.phase, p.reason, p.code)
                    for p in sites
                ],
            )
            if verdict is not None:
                db.execute(
                    "UPDATE attempts SET votes = ?, returned_to = ? WHERE attempt = ?",
                    (verdict.votes, verdict.returned_to, attempt),
                )
                db.execute(
                    "UPDATE models SET scores = ?, accepted = ? WHERE number = ?",
                    (json.dumps(verdict.scores), verdict.returned_to is None, verdict.number),
                )
            if model is not None:
                self._insert_model(db, model)

    def _record_end(
        self,
        db: Any,
        attempt: int,
        outcome: Outcome,
        reason: str,
        sites: Iterable[Participation],
        model: ModelRow | None,
    ) -> None:
        """The end of an attempt on the audit log, before the row that makes it count."""
        row = db.execute("SELECT number FROM attempts WHERE attempt = ?", (attempt,)).fetchone()
        if outcome is Outcome.ABORTED:
            self.audit.append("round_aborted", round=row["number"], attempt=attempt, reason=reason)
        else:
            self.audit.append(
                "round_committed",
                round=row["number"],
                attempt=attempt,
                sites=[p.site for p in sites if p.contributed],
                model=None if model is None else model.digest,
            )

    def _insert_model(self, db: Any, model: ModelRow) -> None:
        db.execute(
            "INSERT INTO models (number, digest, state, accepted, committed_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (model.number, model.digest, model.state, model.accepted, self._clock()),
        )
        # Returned to, or made once more by updates of zero: it is not counted and voted on again.
        db.execute(
            "UPDATE models SET (scores, accepted) = (SELECT scores, accepted FROM models "
            "WHERE digest = :digest ORDER BY number LIMIT 1) WHERE number = :number",
            {"digest": model.digest, "number": model.number},
        )

    def models(self) -> list[ModelRow]:
        """Every committed model, in order."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT * FROM models ORDER BY number").fetchall()
        return [model_row(row) for row in rows]

    def newest_model(self) -> ModelRow:
        """The model that the next round starts from. Raises StateError before the first start."""
        with self._db.transaction() as db:
            row = db.execute("SELECT * FROM models ORDER BY number DESC LIMIT 1").fetchone()
        if row is None:
            raise StateError("no study was started here yet; run: primia-coordinator start")
        return model_row(row)

    def has_model(self, digest: Digest, *, rejected: bool = False) -> bool:
        """Whether this model was committed here; rejected: and then not accepted."""
        with self._db.transaction() as db:
            rows = db.execute("SELECT accepted FROM models WHERE digest = ?", (digest,)).fetchall()
        return any(row["accepted"] == 0 or not rejected for row in rows)

    def accepted_model(self) -> ModelRow:
        """The last model that was accepted, as the round that made it left it.

        Raises StateError before the first start.
        """
        accepted = [m for m in self.models() if m.accepted]
        if not accepted:
            raise StateError("no study was started here yet; run: primia-coordinator start")
        # A round that returned has the model of an earlier one; that one made it.
        return next(m for m in accepted if m.digest == accepted[-1].digest)

    def attempts(self) -> list[AttemptRow]:
        """Every attempt, in order, with its participants.

        An outcome is final, so what is closed is read once.
        """
        with self._db.transaction() as db:
            after = self._closed[-1].round.attempt if self._closed else 0
            study = db.execute("SELECT digest FROM study").fetchone()
            rows = db.execute(
                "SELECT * FROM attempts WHERE attempt > ? ORDER BY attempt", (after,)
            ).fetchall()
            took_part: dict[int, list[Any]] = {row["attempt"]: [] for row in rows}
            for row in db.execute(
                "SELECT * FROM participation WHERE attempt > ? ORDER BY attempt, site", (after,)
            ):
                took_part[row["attempt"]].append(row)
            found = [
                attempt_row(Digest(study["digest"]), row, took_part[row["attempt"]]) for row in rows
            ]
            # There is at most one that is open, and it is the last.
            self._closed += [a for a in found if a.outcome != "open"]
            return [*self._closed, *(a for a in found if a.outcome == "open")]
