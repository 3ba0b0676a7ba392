"""Who was in what: cohorts as sets of fingerprints, and what each person in them was part of.

A patient is known by a keyed fingerprint of the patient's id, and a film by one of its pixels. Two
ids that share a film are taken for one person, for whom everything counts that counts for either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from primia.types import Digest, sha256

FINGERPRINT_BYTES = 16
_HEAD = b"primia cohort v1\n"


@dataclass(frozen=True)
class Members:
    """The patients that a mechanism was run on, each with the films that were used.

    key: names the secret that the fingerprints were made with; under another key nothing can be
    compared.
    """

    key: str
    films: Mapping[bytes, frozenset[bytes]] = field(repr=False)

    def to_bytes(self) -> bytes:
        """The one byte form: key, then each patient with its films, all sorted."""
        parts = [_HEAD, self.key.encode(), b"\n"]
        for patient, films in sorted(self.films.items()):
            for fingerprint in (patient, *films):
                if len(fingerprint) != FINGERPRINT_BYTES:
                    raise ValueError(f"a fingerprint has {FINGERPRINT_BYTES} bytes")
            parts += [patient, len(films).to_bytes(4, "big"), *sorted(films)]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Members:
        """Read `to_bytes` back. Raises ValueError for anything else."""
        head, _, rest = data.partition(b"\n")
        key, _, body = rest.partition(b"\n")
        found: dict[bytes, frozenset[bytes]] = {}
        size, at = FINGERPRINT_BYTES, 0
        while at < len(body):
            patient = body[at : at + size]
            count = int.from_bytes(body[at + size : at + size + 4], "big")
            start = at + size + 4
            at = start + count * size
            found[patient] = frozenset(body[i : i + size] for i in range(start, at, size))
        made = cls(key.decode("ascii"), found)
        if head + b"\n" != _HEAD or made.to_bytes() != data:
            raise ValueError("not a cohort in canonical form")
        return made

    @cached_property
    def digest(self) -> Digest:
        """SHA-256 of the byte form: the name by which a ledger's rows refer to it."""
        return sha256(self.to_bytes())


@dataclass(frozen=True)
class Overlap:
    """What a ledger knows of a cohort's patients already.

    known: patients that stand in an earlier cohort under the same id.
    renamed: patients whose films stand in an earlier cohort under another id.
    """

    known: int
    renamed: int


class People:
    """Persons over several cohorts: patients, joined where they share a film."""

    def __init__(self, cohorts: Mapping[Digest, Members]) -> None:
        self._parent: dict[bytes, bytes] = {}
        self._owner: dict[bytes, bytes] = {}  # a patient of each film
        self._in: dict[bytes, set[Digest]] = {}  # cohorts of each patient
        for digest, members in cohorts.items():
            for patient, films in members.films.items():
                self._in.setdefault(patient, set()).add(digest)
                self._add(patient, films)

    def classes(self, among: Members | None = None) -> set[frozenset[Digest]]:
        """The sets of cohorts that persons are in, of those in `among` or of all.

        A set inside another one is left out: who is in more cohorts has shown no less.
        """
        joined: dict[bytes, set[Digest]] = {}
        for patient, digests in self._in.items():
            joined.setdefault(self._root(patient), set()).update(digests)
        if among is None:
            found = {frozenset(digests) for digests in joined.values()}
        else:
            persons = {self._root(p) for p in among.films if p in self._parent}
            found = {frozenset(joined.get(person, ())) for person in persons}
        return {one for one in found if not any(one < other for other in found)}

    def same_as(self, patients: Iterable[bytes]) -> tuple[frozenset[bytes], frozenset[bytes]]:
        """Every id that is one of these persons', and every film of theirs."""
        persons = {self._root(p) for p in patients if p in self._parent}
        ids = frozenset(p for p in self._parent if self._root(p) in persons)
        films = frozenset(f for f, p in self._owner.items() if self._root(p) in persons)
        return ids | frozenset(patients), films

    def overlap(self, members: Members) -> Overlap:
        """How many of these patients are known, under their own id or another one."""
        renamed = sum(
            any(self._owner.get(film, patient) != patient for film in films)
            for patient, films in members.films.items()
            if patient not in self._in
        )
        return Overlap(sum(patient in self._in for patient in members.films), renamed)

    def _add(self, patient: bytes, films: Iterable[bytes]) -> None:
        self._parent.setdefault(patient, patient)
        for film in films:
            other = self._owner.setdefault(film, patient)
            a, b = self._root(patient), self._root(other)
            if a != b:
                self._parent[max(a, b)] = min(a, b)

    def _root(self, patient: bytes) -> bytes:
        root = patient
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[patient] != root:  # shorten the way for the next one
            self._parent[patient], patient = root, self._parent[patient]
        return root
