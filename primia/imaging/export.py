"""Films of made-up or divided hospitals to disk, in each form that the readers take."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from primia.imaging.dataset import Films, Pixels

CAPTION = 96  # pixels at the left of a contact sheet


def write_site_npz(
    films_by_site: Mapping[str, Films], folder: Path, classes: Sequence[str] = ()
) -> list[Path]:
    """Write FOLDER/SITE/films.npz for each site: images, labels, patient_ids and the class names.

    The patients get new names (SITE-00000), so no id of the source is copied.
    """
    paths = []
    for site, films in films_by_site.items():
        path = folder / site / "films.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        named = {"classes": np.array(classes, np.str_)} if classes else {}
        np.savez_compressed(
            path,
            allow_pickle=False,
            images=films.pixels,
            labels=films.labels,
            patient_ids=np.array(_patient_names(site, films), np.str_),
            **named,
        )
        paths.append(path)
    return paths


def write_site_folder(
    films_by_site: Mapping[str, Films], folder: Path, classes: Sequence[str]
) -> list[Path]:
    """Write FOLDER/SITE/CLASS/*.png and FOLDER/SITE/patients.csv; gives the sites' folders."""
    paths = []
    for site, films in films_by_site.items():
        root = folder / site
        for name in classes:
            (root / name).mkdir(parents=True, exist_ok=True)
        names = [f"{classes[label]}/{i:05d}.png" for i, label in enumerate(films.labels)]
        _write_pictures(films, root, names)
        patients = _patient_names(site, films)
        _write_table(root / "patients.csv", ("file", "patient"), zip(names, patients, strict=True))
        paths.append(root)
    return paths


def write_site_csv(
    films_by_site: Mapping[str, Films], folder: Path, classes: Sequence[str]
) -> list[Path]:
    """Write FOLDER/SITE/films.csv (file, label, patient) and its pictures; gives the tables."""
    paths = []
    for site, films in films_by_site.items():
        root = folder / site
        (root / "films").mkdir(parents=True, exist_ok=True)
        names = [f"films/{i:05d}.png" for i in range(len(films))]
        _write_pictures(films, root, names)
        labels = [classes[label] for label in films.labels]
        rows = zip(names, labels, _patient_names(site, films), strict=True)
        paths.append(root / "films.csv")
        _write_table(paths[-1], ("file", "label", "patient"), rows)
    return paths


Writer = Callable[[Mapping[str, Films], Path, Sequence[str]], list[Path]]
WRITERS: dict[str, Writer] = {
    "npz": write_site_npz, "csv": write_site_csv, "folder": write_site_folder,
}  # fmt: skip


def contact_sheet(
    films_by_site: Mapping[str, Films],
    classes: Sequence[str],
    *,
    columns: int = 10,
    mean: bool = False,
) -> Image.Image:
    """The first films of every class and site, one row each, for a look by eye.

    mean: the mean of the class's films comes first.
    """
    size = next(iter(films_by_site.values())).size
    edge = max(size, 96)
    rows = [(site, label) for site in films_by_site for label in range(len(classes))]
    sheet = Image.new("L", (CAPTION + columns * edge, len(rows) * edge))
    pen = ImageDraw.Draw(sheet)
    for row, (site, label) in enumerate(rows):
        films = films_by_site[site]
        pen.text((6, row * edge + edge // 2 - 12), f"{site}\n{classes[label]}", fill=220)
        shown = list(_of_class(films, label)[:columns])
        if mean and shown:
            shown = [np.rint(_of_class(films, label).mean(0)).astype(np.uint8), *shown[:-1]]
        for column, film in enumerate(shown):
            tile = Image.fromarray(film).resize((edge, edge), Image.Resampling.BICUBIC)
            sheet.paste(tile, (CAPTION + column * edge, row * edge))
    return sheet


def _of_class(films: Films, label: int) -> Pixels:
    chosen: Pixels = films.pixels[films.labels == label]
    return chosen


def _patient_names(site: str, films: Films) -> list[str]:
    return [f"{site}-{patient:05d}" for patient in films.patients]


def _write_pictures(films: Films, root: Path, names: Sequence[str]) -> None:
    for name, film in zip(names, films.pixels, strict=True):
        Image.fromarray(film).save(root / name)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
