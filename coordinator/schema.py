"""The tables of the coordinator's database, one migration after the other."""

from __future__ import annotations

from coordinator import troubles

MIGRATIONS = [
    """
    CREATE TABLE study (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        plan BLOB NOT NULL, signature BLOB NOT NULL, digest TEXT NOT NULL,
        parameters INTEGER NOT NULL, pinned_at REAL NOT NULL
    ) STRICT;
    CREATE TABLE invitations (
        fingerprint TEXT PRIMARY KEY, site TEXT NOT NULL, certificate BLOB NOT NULL,
        expires_at REAL NOT NULL, request_key TEXT, issued BLOB
    ) STRICT;
    CREATE TABLE sites (
        site TEXT PRIMARY KEY, certificate BLOB NOT NULL, fingerprint TEXT NOT NULL,
        enrolled_at REAL NOT NULL, struck_at REAL, last_seen REAL
    ) STRICT;
    CREATE TABLE attempts (
        attempt INTEGER PRIMARY KEY AUTOINCREMENT,
        number INTEGER NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL,
        opened_at REAL NOT NULL, phase TEXT NOT NULL, waiting_for TEXT NOT NULL,
        ready TEXT NOT NULL DEFAULT '[]', survivors TEXT NOT NULL DEFAULT '[]',
        closed_at REAL, outcome TEXT, reason TEXT NOT NULL DEFAULT '', update_norm REAL
    ) STRICT;
    CREATE TABLE participation (
        attempt INTEGER NOT NULL REFERENCES attempts, site TEXT NOT NULL,
        charged INTEGER NOT NULL, contributed INTEGER NOT NULL, phase TEXT NOT NULL,
        reason TEXT NOT NULL, PRIMARY KEY (attempt, site)
    ) STRICT;
    CREATE TABLE models (
        number INTEGER PRIMARY KEY, digest TEXT NOT NULL, state TEXT NOT NULL,
        scores TEXT, committed_at REAL NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX one_commit ON attempts (number) WHERE outcome = 'committed';
    """,
    # Before there were votes every model was accepted.
    """
    ALTER TABLE models ADD COLUMN accepted INTEGER;
    UPDATE models SET accepted = 1 WHERE number = 0 OR scores IS NOT NULL;
    ALTER TABLE attempts ADD COLUMN votes INTEGER;
    ALTER TABLE attempts ADD COLUMN returned_to INTEGER;
    """,
    # audit_from: attempts of before there was an audit log.
    """
    CREATE TABLE heads (
        site TEXT PRIMARY KEY, heads TEXT NOT NULL, answer TEXT NOT NULL, times INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE head_troubles (
        site TEXT NOT NULL, whose TEXT NOT NULL, attempt INTEGER NOT NULL, reason TEXT NOT NULL,
        found_at REAL NOT NULL, PRIMARY KEY (site, whose)
    ) STRICT;
    INSERT INTO meta SELECT 'audit_from', coalesce(max(attempt), 0) FROM attempts;
    """,
    # previous: the certificate that the newer one replaces; valid without end until that is seen.
    """
    CREATE TABLE authorities (
        number INTEGER PRIMARY KEY, certificate BLOB NOT NULL, endorsement BLOB,
        coordinator BLOB NOT NULL, made_at REAL NOT NULL, retired_at REAL
    ) STRICT;
    ALTER TABLE sites ADD COLUMN previous TEXT;
    ALTER TABLE sites ADD COLUMN previous_until REAL;
    """,
    # What an open attempt is resumed from, and the blobs of its masked sums (JSON).
    """
    ALTER TABLE attempts ADD COLUMN carried TEXT;
    ALTER TABLE attempts ADD COLUMN sums TEXT NOT NULL DEFAULT '[]';
    """,
    # Codes beside the reasons; those of before are told by how their text began.
    """
    ALTER TABLE attempts ADD COLUMN code TEXT NOT NULL DEFAULT '';
    ALTER TABLE participation ADD COLUMN code TEXT NOT NULL DEFAULT '';
    UPDATE attempts SET code = CASE
        WHEN reason = 'the coordinator was restarted' THEN 'coordinator-restarted'
        WHEN reason LIKE 'the sum was discarded: %' THEN 'discarded'
        ELSE 'not-enough' END WHERE outcome = 'aborted';
    UPDATE participation SET code = CASE
        WHEN reason LIKE 'away: %' THEN 'away'
        WHEN reason LIKE 'no answer in time%' THEN 'late'
        WHEN reason LIKE 'declined%' THEN 'declined'
        WHEN reason LIKE 'struck%' THEN 'struck'
        WHEN reason LIKE 'revealed a wrong share%' THEN 'wrong-share'
        WHEN reason LIKE 'the attempt ended%' THEN 'round-ended'
        WHEN reason = 'the coordinator was restarted' THEN 'coordinator-restarted'
        WHEN reason LIKE 'the sum was discarded: %' THEN 'discarded'
        ELSE '' END WHERE reason <> '';
    CREATE INDEX models_by_digest ON models (digest);
    """,
    troubles.SCHEMA,
]
