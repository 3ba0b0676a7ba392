-- coordinator.db as primia made it before there were votes (schema 2), written by that version.
BEGIN TRANSACTION;
CREATE TABLE attempts (
        attempt INTEGER PRIMARY KEY AUTOINCREMENT,
        number INTEGER NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL,
        opened_at REAL NOT NULL, phase TEXT NOT NULL, waiting_for TEXT NOT NULL,
        ready TEXT NOT NULL DEFAULT '[]', survivors TEXT NOT NULL DEFAULT '[]',
        closed_at REAL, outcome TEXT, reason TEXT NOT NULL DEFAULT '', update_norm REAL
    ) STRICT;
CREATE TABLE invitations (
        fingerprint TEXT PRIMARY KEY, site TEXT NOT NULL, certificate BLOB NOT NULL,
        expires_at REAL NOT NULL, request_key TEXT, issued BLOB
    ) STRICT;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE models (
        number INTEGER PRIMARY KEY, digest TEXT NOT NULL, state TEXT NOT NULL,
        scores TEXT, committed_at REAL NOT NULL
    ) STRICT;
CREATE TABLE participation (
        attempt INTEGER NOT NULL REFERENCES attempts, site TEXT NOT NULL,
        charged INTEGER NOT NULL, contributed INTEGER NOT NULL, phase TEXT NOT NULL,
        reason TEXT NOT NULL, PRIMARY KEY (attempt, site)
    ) STRICT;
CREATE TABLE sites (
        site TEXT PRIMARY KEY, certificate BLOB NOT NULL, fingerprint TEXT NOT NULL,
        enrolled_at REAL NOT NULL, struck_at REAL, last_seen REAL
    ) STRICT;
CREATE TABLE study (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        plan BLOB NOT NULL, signature BLOB NOT NULL, digest TEXT NOT NULL,
        parameters INTEGER NOT NULL, pinned_at REAL NOT NULL
    ) STRICT;
CREATE UNIQUE INDEX one_commit ON attempts (number) WHERE outcome = 'committed';
COMMIT;
PRAGMA user_version = 2;
