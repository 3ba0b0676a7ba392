"""The films that a source lists, decoded into a pool; those that cannot be used are set apart."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from primia.config.site import DataSource
from primia.errors import DataError
from primia.imaging.dataset import Pool, Reject
from primia.imaging.dicom import is_dicom
from primia.imaging.pictures import Defect, Picture
from primia.imaging.sandbox import Sandbox

NAMED = 5  # so many quarantined films are named in a message

NO_PATIENTS = (
    "privacy and the split need to know which films belong to one patient: add them; that every "
    "film is of another patient is for a worker's site file alone to say "
    "(every_film_its_own_patient: true)"
)

_USE_FILM = b"primia-film"  # personalisation of BLAKE2b (RFC 7693)
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


@dataclass(frozen=True)
class Listed:
    """A film that a source promises."""

    path: Path
    label: int
    patient: str | None  # None: as the file itself says
    where: str = ""  # "line 7" of a table: never a file name
    any_view: bool = False  # a person has looked at it: its tags do not decide
    part: str = ""  # train, val or test, where a table says so


def pseudonym(name: str, key: bytes) -> str:
    """What a film is called outside the list that stays here: nothing without the site's key."""
    raw = name.encode(errors="surrogateescape")  # names of files need not be text
    return hashlib.blake2b(raw, digest_size=5, key=key, person=_USE_FILM).hexdigest()


def form_of(path: Path) -> str:
    """`dicom`, `picture` or "" by the file's first bytes, whatever it is called."""
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return ""
    if is_dicom(head):
        return "dicom"
    return "picture" if head.startswith(_MAGIC) else ""


def any_dicom(paths: Iterable[Path]) -> bool:
    """Is there one whose file may name its patient?"""
    return any(form_of(path) == "dicom" for path in paths)


def decode(
    listed: Sequence[Listed],
    source: DataSource,
    size: int,
    *,
    root: Path,
    key: bytes,
    warnings: Sequence[str] = (),
) -> Pool:
    """Decode what is listed; one film's fault never ends the others.

    root: the folder that films are named below; key: for their pseudonyms. Raises DataError for
    more unreadable films than the site allows, and for films whose patient nobody names.
    """
    pixels = np.empty((len(listed), size, size), np.uint8)
    kept: list[tuple[Listed, Picture]] = []
    unfit: list[Reject] = []
    unreadable: list[Reject] = []
    with Sandbox() as sandbox:
        pictures = sandbox.decode([(film.path, film.any_view) for film in listed], size)
        for film, picture in zip(listed, pictures, strict=True):
            if isinstance(picture, Defect):
                reject = _reject(film, picture, root, key)
                (unfit if picture.unfit else unreadable).append(reject)
            else:
                pixels[len(kept)] = picture.pixels
                # Only the pixels in the array are kept, not a second copy of each film.
                kept.append((film, replace(picture, pixels=pixels[len(kept)])))
    said = [*warnings, *_about_unreadable(unreadable, len(listed), source)]
    said += _about_unfit(unfit, len(listed))
    patients = np.array(_patients(kept, source, root), np.str_)
    unnamed = np.array([not (film.patient or p.patient) for film, p in kept], bool)
    tested, about = _set_apart(kept, patients.tolist())
    trained = ~np.isin(patients, tested)
    return Pool(
        pixels[: len(kept)][trained] if tested else pixels[: len(kept)],
        np.array([film.label for film, _ in kept], np.int64)[trained],
        patients[trained],
        rejects=(*unreadable, *unfit),
        warnings=(*said, *about),
        unnamed=unnamed[trained],
    )


def _reject(film: Listed, defect: Defect, root: Path, key: bytes) -> Reject:
    name = pseudonym(_name(film, root), key)
    return Reject(name, film.path, film.where, defect.code, str(defect))


def _name(film: Listed, root: Path) -> str:
    inside = film.path.is_relative_to(root)
    return (film.path.relative_to(root) if inside else film.path).as_posix()


def _about_unreadable(bad: list[Reject], films: int, source: DataSource) -> list[str]:
    if not bad:
        return []
    named = ", ".join(f"{reject} ({reject.reason})" for reject in bad[:NAMED])
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    summary = f"{len(bad)} of {films} films cannot be read: {named}{more}"
    if source.unreadable == "stop":
        raise DataError(
            f"{source.path}: {summary}; mend or remove them, or set unreadable: skip "
            "(`primia data check --rejects` names the files)"
        )
    if len(bad) > source.max_unreadable * films:
        needs = any("pip install" in reject.reason for reject in bad)
        cause = "install what they need" if needs else "the export is at fault: export them again"
        raise DataError(
            f"{source.path}: {summary}; above {source.max_unreadable:.0%} (max_unreadable) {cause}"
        )
    return [f"{summary}; they were left out"]


def _about_unfit(unfit: list[Reject], films: int) -> list[str]:
    if not unfit:
        return []
    reasons = Counter(reject.reason for reject in unfit)
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return [
        f"{len(unfit)} of {films} films are no frontal chest films by their tags and were left "
        f"out: {told}; override: yes in a CSV of the films keeps one"
    ]


def _set_apart(
    kept: list[tuple[Listed, Picture]], patients: list[str]
) -> tuple[list[str], list[str]]:
    """Patients with a film that a table calls test, and what the steward should know.

    All films of a patient go the same way, so a test that shares patients with training is mended
    here; train and val are pooled, and split by patient later.
    """
    parts: dict[str, set[str]] = defaultdict(set)
    for (film, _), patient in zip(kept, patients, strict=True):
        if film.part:
            parts[patient].add(film.part)
    tested = [patient for patient, found in parts.items() if "test" in found]
    mixed = sum(len(parts[patient]) > 1 for patient in tested)
    both = sum(found == {"train", "val"} for found in parts.values())
    about = []
    if tested:
        about.append(f"{len(tested)} patients stand in test and were left out")
    if mixed:
        about.append(
            f"{mixed} patients stand in test and in train or val: all their films are test"
        )
    if both:
        about.append(f"{both} patients stand in train and val; the films are split by patient")
    return tested, about


def _patients(kept: list[tuple[Listed, Picture]], source: DataSource, root: Path) -> list[str]:
    """The patient of each film: the table's word, else the file's own."""
    name = _names_by_tag([p for film, p in kept if film.patient is None], source)
    found = [film.patient or name(picture) for film, picture in kept]
    missing = sum(patient is None for patient in found)
    if missing and not source.every_film_its_own_patient:
        raise DataError(
            f"{source.path}: {missing} of {len(kept)} films name no patient; {NO_PATIENTS}"
        )
    # By its name, not its number: the same in every later run, whatever comes or goes.
    return [
        patient or f"film {_name(film, root)}"
        for patient, (film, _) in zip(found, kept, strict=True)
    ]


def _names_by_tag(pictures: list[Picture], source: DataSource) -> Callable[[Picture], str | None]:
    """How PatientID and its issuer name a patient, the same in every later run.

    Raises DataError when a PatientID stands with and without an issuer: taken for two patients,
    it would be protected as two, and merged it would change its name when the last film without an
    issuer goes.
    """
    if source.ignore_issuer:
        return lambda picture: picture.patient
    issuers: dict[str | None, set[str | None]] = defaultdict(set)
    for picture in pictures:
        issuers[picture.patient].add(picture.issuer)
    unclear = sum(None in found and len(found) > 1 for id_, found in issuers.items() if id_)
    if unclear:
        raise DataError(
            f"{source.path}: {unclear} PatientIDs stand with and without an issuer; set "
            "ignore_issuer: true if a PatientID is one patient whoever issued it, or name the "
            "patients in a CSV"
        )

    def name(picture: Picture) -> str | None:
        if picture.patient is None or picture.issuer is None:
            return picture.patient
        return f"{picture.patient}\x1f{picture.issuer}"

    return name
