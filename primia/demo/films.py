"""Films for hospitals that exist on this machine alone: synthetic, or a data set dealt out."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

SYNTHETIC_PATIENTS = 400  # of each site
SYNTHETIC_SIZE = 48  # pixels


@dataclass(frozen=True)
class HospitalFilms:
    """One NPZ for each site, and what a plan has to say of them.

    patients_per_site: roughly, to train on; only a rehearsal may look across sites.
    """

    paths: tuple[Path, ...]
    classes: tuple[str, ...]
    size: int
    patients_per_site: int
    warnings: tuple[str, ...] = ()


def synthetic_films(
    folder: Path,
    names: list[str],
    *,
    patients: int = SYNTHETIC_PATIENTS,
    size: int = SYNTHETIC_SIZE,
    classes: tuple[str, ...] | None = None,
    seed: int = 0,
) -> HospitalFilms:
    """Draw each site's films into FOLDER. Raises ValueError for classes that cannot be drawn."""
    from primia.imaging.export import write_site_npz
    from primia.imaging.synth import CLASSES, synthesise

    wanted = classes or CLASSES
    draw = partial(synthesise, patients, size=size, seed=seed, classes=wanted)
    with ProcessPoolExecutor(2) as pool:
        sites = [pool.submit(draw, site=i) for i in range(len(names))]
        drawn = {n: s.result() for n, s in zip(names, sites, strict=True)}
    paths = write_site_npz(drawn, folder, wanted)
    return HospitalFilms(tuple(paths), wanted, size, round(0.8 * patients))


def divided_films(
    folder: Path,
    names: list[str],
    data: Path,
    *,
    classes: tuple[str, ...] | None = None,
    size: int | None = None,
) -> HospitalFilms:
    """Deal a data set out to the sites by patient. Raises DataError."""
    import numpy as np

    from primia.imaging.division import divide_npz

    found = divide_npz(data, names, folder, classes=classes, input_size=size)
    with np.load(found.paths[0], allow_pickle=False) as arrays:
        patients = round(0.8 * len(np.unique(arrays["patient_ids"])))
    return HospitalFilms(found.paths, found.classes, found.input_size, patients, found.warnings)
