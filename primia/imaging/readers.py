"""From the site file's `data:` to a cohort fit to train on, or one line that says why not."""

from __future__ import annotations

import hashlib

import numpy as np

from primia.config.site import DataSource
from primia.errors import DataError
from primia.imaging.archives import read_npz
from primia.imaging.dataset import Cohort, Films, Pool
from primia.imaging.files import read_csv, read_folder
from primia.imaging.manifest import SiteKey, Withdrawn, fingerprints, freeze, without
from primia.imaging.split import VALIDATION_KEY, patient_split
from primia.imaging.tables import NoFilms

FEW = 30  # films, of which no mean can be made
COARSE = 32  # pixels along an edge are enough to see a chest
ODD = -0.2  # correlation with the mean film; a negative has about -0.7, a chest film 0.7


def load_cohort(
    source: DataSource,
    *,
    classes: tuple[str, ...],
    input_size: int,
    min_patients: int,
    split_key: bytes = VALIDATION_KEY,
    site_key: SiteKey | None = None,
    withdrawn: Withdrawn = (frozenset(), frozenset()),
) -> Cohort:
    """Read, check and split the films of one site.

    classes: the plan's, in its order; input_size: edge of the square films in pixels;
    min_patients: least number of training patients the site allows; split_key: see
    `patient_split`, the same key gives the same split; site_key: makes the cohort's manifest;
    withdrawn: fingerprints under that key of patients and of films that are left out.

    Raises DataError for a source that cannot be used, fewer patients than the minimum, or a
    single class. A film that cannot be read is counted and left out.
    """
    try:
        pool = read_pool(source, classes=classes, input_size=input_size, key=split_key)
    except NoFilms as err:
        raise DataError(f"{err}; the site file asks for at least {min_patients} patients") from err
    prints = None
    if site_key is not None:
        pool, prints = without(pool, fingerprints(pool, site_key), withdrawn)
    films = pool.films()
    _need_patients(source, films.patient_count, films, min_patients)
    held_out = patient_split(pool.patient_ids, source.validation_fraction, split_key)
    train, validation = films.select(~held_out), films.select(held_out)
    _need_patients(source, train.patient_count, films, min_patients)
    _need_two_classes(source, train, classes)
    warnings = [*pool.warnings, *_repeated_films(pool), *_odd_films(pool)]
    missing = [name for i, name in enumerate(classes) if i not in train.labels]
    if missing:
        warnings.append(f"no training film of class {', '.join(missing)}")
    if len(np.unique(validation.labels)) < len(np.unique(train.labels)):
        warnings.append("the validation films do not show every class that is trained on")
    manifest = None
    if site_key is not None and prints is not None:
        labels = (classes[i] for i in pool.labels.tolist())
        manifest = freeze(prints, labels, held_out, site_key)
    return Cohort(train, validation, pool.quarantined, tuple(warnings), pool.rejects, manifest)


def read_pool(
    source: DataSource,
    *,
    classes: tuple[str, ...],
    input_size: int,
    key: bytes = VALIDATION_KEY,
) -> Pool:
    """All readable films of a source, not yet split; `key` names those left out.

    Raises DataError.
    """
    if source.kind == "npz":
        return read_npz(source, classes, input_size)
    read = {"folder": read_folder, "csv": read_csv}[source.kind]
    return read(source, classes, input_size, key)


def _need_patients(source: DataSource, train: int, films: Films, least: int) -> None:
    if train < least:
        raise DataError(
            f"{source.path}: {train} patients to train on (of {films.patient_count}), the site "
            f"file asks for at least {least}; add films of more patients"
        )


def _need_two_classes(source: DataSource, train: Films, classes: tuple[str, ...]) -> None:
    present = np.unique(train.labels)
    if present.size < 2:
        name = classes[int(present[0])]
        raise DataError(
            f"{source.path}: all training films are of class {name}; at least 2 classes are "
            "needed, add films of another class"
        )


def _repeated_films(pool: Pool) -> list[str]:
    """A film under two patients is counted twice and protected once: worth a look."""
    owners: dict[bytes, set[str]] = {}
    for film, patient in zip(pool.pixels, pool.patient_ids.tolist(), strict=True):
        owners.setdefault(hashlib.sha256(film.tobytes()).digest(), set()).add(patient)
    shared = sum(len(patients) > 1 for patients in owners.values())
    if not shared:
        return []
    return [f"{shared} films stand under more than one patient; check the patient ids"]


def _odd_films(pool: Pool) -> list[str]:
    """A film that is bright where the others are dark was stored wrongly, or is no chest."""
    if len(pool.pixels) < FEW:
        return []
    step = -(-pool.pixels.shape[1] // COARSE)
    films = pool.pixels[:, ::step, ::step].reshape(len(pool.pixels), -1).astype(np.float32)
    films -= films.mean(1, keepdims=True)
    mean = films.mean(0)
    norms = np.linalg.norm(films, axis=1) * np.linalg.norm(mean)
    odd = int((films @ mean < ODD * norms).sum())
    if not odd:
        return []
    return [
        f"{odd} films look like the reverse of the others (negatives, or no chest films); look at "
        "them with `primia data sheet`"
    ]
