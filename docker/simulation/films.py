"""Draw the films of one hospital of the simulation: films.py SITE INDEX FILE."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from primia.imaging.export import write_site_npz
from primia.imaging.synth import CLASSES, synthesise

PATIENTS = 400
SIZE = 48  # pixels, as in study.yaml


def main(site: str, index: str, file: str) -> None:
    """Hospitals of different INDEX share no patient and differ in exposure and class mix."""
    target = Path(file)
    if target.exists():
        return
    films = synthesise(PATIENTS, size=SIZE, seed=0, site=int(index))
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        (drawn,) = write_site_npz({site: films}, Path(folder), CLASSES)
        drawn.rename(target)  # all or nothing: a killed container draws anew


if __name__ == "__main__":
    main(*sys.argv[1:])
