"""The frozen cohort: which films of which patients, under which label, in which part.

It never leaves the site. Films and patients stand in it by keyed fingerprints, and its digest is
keyed, too: without the site's key neither says anything, not even whether a known film is in.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from primia.imaging.dataset import Pool
from primia.types import Digest

KEY_BYTES = 32
FINGERPRINT_BYTES = 16
"""Of HMAC-SHA256, its first half: 128 bits tell any number of patients apart."""

_HEAD = "primia cohort manifest v1"
_USE_PATIENT = b"primia patient v1\0"
_USE_FILM = b"primia film v1\0"
_USE_NAME = b"primia key name v1\0"
_USE_MANIFEST = b"primia manifest v1\0"

TRAIN, VALIDATION = "train", "validation"


class SiteKey:
    """The secret that makes fingerprints: HMAC-SHA256, one label for each use."""

    def __init__(self, secret: bytes) -> None:
        """secret: 32 bytes of the operating system's entropy."""
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a site key has {KEY_BYTES} bytes, not {len(secret)}")
        self._secret = secret

    @property
    def name(self) -> str:
        """Tells this key from another one, and says nothing about it."""
        return self._mac(_USE_NAME, b"")[:FINGERPRINT_BYTES].hex()

    def patient(self, name: str) -> bytes:
        """Fingerprint of a patient's id; blanks around it do not count."""
        return self._mac(_USE_PATIENT, _bytes(name.strip()))[:FINGERPRINT_BYTES]

    def film(self, content: bytes) -> bytes:
        """Fingerprint of a film; content: SHA-256 of its pixels."""
        return self._mac(_USE_FILM, content)[:FINGERPRINT_BYTES]

    def seal(self, manifest: bytes) -> Digest:
        """The digest by which a cohort is approved."""
        return Digest(self._mac(_USE_MANIFEST, manifest).hex())

    def _mac(self, use: bytes, content: bytes) -> bytes:
        return hmac.digest(self._secret, use + content, "sha256")


@dataclass(frozen=True, order=True)
class Entry:
    """One film. `film` and `patient` are fingerprints; `part` is train or validation."""

    film: bytes
    patient: bytes
    label: str
    part: str

    def line(self) -> str:
        """Its line in the canonical form."""
        return "\t".join((self.film.hex(), self.patient.hex(), self.label, self.part))


@dataclass(frozen=True)
class Manifest:
    """All films of a cohort, sorted; `digest` is keyed. Made by `freeze`."""

    entries: tuple[Entry, ...]
    digest: Digest

    @property
    def patients(self) -> int:
        """How many patients, in both parts together. Stays on site."""
        return len({e.patient for e in self.entries})

    def trained(self) -> dict[bytes, frozenset[bytes]]:
        """Patients that are trained on, each with the fingerprints of the films used."""
        films: dict[bytes, set[bytes]] = {}
        for entry in self.entries:
            if entry.part == TRAIN:
                films.setdefault(entry.patient, set()).add(entry.film)
        return {patient: frozenset(found) for patient, found in films.items()}

    def to_bytes(self) -> bytes:
        """The one byte form: a head line, then a line for each film in the order of its bytes."""
        return _canonical(self.entries)


Prints = list[tuple[bytes, bytes]]
"""Of each film: its own fingerprint and that of its patient."""

Withdrawn = tuple[frozenset[bytes], frozenset[bytes]]
"""Fingerprints of patients, and of films of theirs that may come under another id."""


def fingerprints(pool: Pool, key: SiteKey) -> Prints:
    """Of each film of a pool: its own fingerprint and that of its patient.

    Where nobody names the patient, a film is its own patient, and its content the only name it has:
    the same film is then the same patient in any order and under any file name.
    """
    films = [key.film(hashlib.sha256(film.tobytes()).digest()) for film in pool.pixels]
    unnamed = [False] * len(films) if pool.unnamed is None else pool.unnamed.tolist()
    named = {name: key.patient(name) for name in set(pool.patient_ids.tolist())}
    patients = [
        key.patient(f"film:{film.hex()}") if alone else named[name]
        for film, name, alone in zip(films, pool.patient_ids.tolist(), unnamed, strict=True)
    ]
    return list(zip(films, patients, strict=True))


def without(pool: Pool, prints: Prints, withdrawn: Withdrawn) -> tuple[Pool, Prints]:
    """The pool and its fingerprints without withdrawn patients, under whatever id they come."""
    patients, films = withdrawn
    gone = {patient for film, patient in prints if patient in patients or film in films}
    if not gone:
        return pool, prints
    stay = np.array([patient not in gone for _, patient in prints], bool)
    warning = f"{len(gone)} patients were withdrawn and are left out"
    pool = replace(pool.select(stay), warnings=(*pool.warnings, warning))
    return pool, [pair for pair in prints if pair[1] not in gone]


def freeze(
    prints: Prints, labels: Iterable[str], held_out: npt.NDArray[np.bool_], key: SiteKey
) -> Manifest:
    """The manifest of a cohort: for each film its fingerprints, its class and its part."""
    parts = (VALIDATION if out else TRAIN for out in held_out.tolist())
    entries = sorted(
        Entry(film, patient, label, part)
        for (film, patient), label, part in zip(prints, labels, parts, strict=True)
    )
    return Manifest(tuple(entries), key.seal(_canonical(entries)))


def difference(old: bytes, new: Manifest) -> str:
    """What changed between an approved manifest in canonical form and one of today, in figures.

    For this site's eyes: it holds counts.
    """
    before = {line.split("\t", 1)[0]: line for line in old.decode().splitlines()[1:]}
    now = {entry.film.hex(): entry.line() for entry in new.entries}
    added, gone = len(now.keys() - before.keys()), len(before.keys() - now.keys())
    other = sum(before[film] != now[film] for film in before.keys() & now.keys())
    return f"{added} films more, {gone} fewer, {other} with another label, patient or part"


def _bytes(name: str) -> bytes:
    """A name as bytes; of a file, it need not be text."""
    return name.encode(errors="surrogateescape")


def _canonical(entries: Iterable[Entry]) -> bytes:
    return "\n".join([_HEAD, *(entry.line() for entry in entries), ""]).encode()
