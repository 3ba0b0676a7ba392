"""What a site keeps of the round at hand, so that it goes on with it after a crash.

The machine of a round decides from three things alone: the stored update, the entropy it drew, and
the instructions it took. Kept on disk, they rebuild it to the bit: its keys, shares, masks and
signatures are the same again, so nothing is opened twice and a resend is the same bytes.

All of it goes when the round is closed. Until then it tells a thief of this disk no more of this
site than the stored update beside it does, and of another site one share of t.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from primia.protocol.messages import Instruction, RoundId
from primia.protocol.site_secrets import Entropy
from primia.storage.database import Database
from primia.types import SiteId
from primia.wire.convert import instruction_from_bytes, instruction_to_bytes

SEED_BYTES = 32
LONGEST_S = 86_400.0
"""A round that is older is not gone on with: the folder may be a copy put back, which cannot know
what this site has opened since."""

SCHEMA = """
    CREATE TABLE journal (
        one INTEGER PRIMARY KEY CHECK (one = 1), attempt INTEGER NOT NULL, seed BLOB NOT NULL,
        update_id INTEGER NOT NULL REFERENCES updates, signed_before TEXT, made_at REAL NOT NULL
    ) STRICT;
    CREATE TABLE journal_steps (step INTEGER PRIMARY KEY, instruction BLOB NOT NULL) STRICT;
"""

TABLES = ("journal", "journal_steps")


@dataclass(frozen=True)
class Journal:
    """One attempt, from its keys on.

    seed: from the operating system; all entropy of the attempt comes from it.
    update: id of the contribution that is masked.
    signed_before: what the machine was told of that update's earlier promise.
    instructions: those that were accepted, in order.
    """

    round: RoundId
    seed: bytes = field(repr=False)
    update: int
    signed_before: tuple[SiteId, ...] | None
    instructions: tuple[Instruction, ...]


def seeded_entropy(seed: bytes) -> Entropy:
    """Bytes that follow from `seed` in the order they are asked for: ChaCha20 under an HKDF key."""
    info = b"primia site round v1 entropy"
    key = HKDF(SHA256(), length=32, salt=None, info=info).derive(seed)
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    return lambda count: stream.update(bytes(count))


class JournalBook:
    """The journal in the worker's database; there is one round at a time."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        """Open it, and forget a round that is too old to go on with.

        clock: the time of day in seconds.
        """
        self._db, self._clock = db, clock
        with db.transaction() as link:
            row = link.execute("SELECT made_at FROM journal").fetchone()
        if row is not None and abs(clock() - row["made_at"]) > LONGEST_S:
            self.forget()
        else:
            db.scrub()  # what was forgotten before a crash may still be in the log

    def open(self, journal: Journal) -> None:
        """Begin with a round, in the place of whatever was kept of an earlier one."""
        before = None if journal.signed_before is None else json.dumps(list(journal.signed_before))
        with self._db.transaction() as db:
            _clear(db)
            db.execute(
                "INSERT INTO journal VALUES (1, ?, ?, ?, ?, ?)",
                (
                    journal.round.attempt,
                    journal.seed,
                    journal.update,
                    before,
                    self._clock(),
                ),
            )
            for instruction in journal.instructions:
                _add(db, instruction)

    def add(self, instruction: Instruction) -> None:
        """Keep one more instruction."""
        with self._db.transaction() as db:
            _add(db, instruction)

    def of(self, round_id: RoundId) -> Journal | None:
        """What was kept of this very attempt, if anything, and not too long ago."""
        with self._db.transaction() as db:
            row = db.execute(
                "SELECT * FROM journal WHERE attempt = ?", (round_id.attempt,)
            ).fetchone()
            steps = db.execute("SELECT instruction FROM journal_steps ORDER BY step").fetchall()
        if row is None or abs(self._clock() - row["made_at"]) > LONGEST_S:
            return None
        instructions = tuple(instruction_from_bytes(step["instruction"]) for step in steps)
        if any(i.round != round_id for i in instructions):
            return None  # another round under the same number: it answers for itself
        before = row["signed_before"]
        promised = None if before is None else tuple(SiteId(s) for s in json.loads(before))
        return Journal(round_id, row["seed"], row["update_id"], promised, instructions)

    def close(self, attempt: int) -> None:
        """Forget the secrets of an attempt, on disk too; harmless when there are none."""
        with self._db.transaction() as db:
            known = db.execute("SELECT 1 FROM journal WHERE attempt = ?", (attempt,)).fetchone()
        if known:
            self.forget()

    def forget(self) -> None:
        """Forget the secrets of whatever attempt there is."""
        with self._db.transaction() as db:
            known = _clear(db)
        if known:
            self._db.scrub()


def _clear(db: Any) -> bool:
    """Whether there was anything."""
    steps = db.execute("DELETE FROM journal_steps").rowcount
    return bool(db.execute("DELETE FROM journal").rowcount + steps)


def _add(db: Any, instruction: Instruction) -> None:
    db.execute(
        "INSERT INTO journal_steps (instruction) VALUES (?)", (instruction_to_bytes(instruction),)
    )
