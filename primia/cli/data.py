"""`primia data`: draw synthetic films, and look at a site's films as its worker would."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.cli.console import out, print_json

if TYPE_CHECKING:
    from primia.imaging import Cohort, Films

app = typer.Typer(no_args_is_help=True, help="Draw synthetic films; check a site's films.")


class Form(StrEnum):
    """How films are written."""

    NPZ = "npz"
    CSV = "csv"
    FOLDER = "folder"


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the films.")],
    patients: Annotated[int, typer.Option(min=2, max=100_000, help="Of each site.")] = 200,
    sites: Annotated[int, typer.Option(min=1, max=100)] = 3,
    size: Annotated[int, typer.Option(min=28, max=512, help="Edge of a film, pixels.")] = 48,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    form: Annotated[Form, typer.Option(help="How the films are written.")] = Form.NPZ,
) -> None:
    """Write synthetic chest films of normal, bacterial and viral patients, one folder per site."""
    from rich.progress import track

    from primia.errors import DataError
    from primia.imaging.export import WRITERS, contact_sheet
    from primia.imaging.synth import CLASSES, synthesise

    films: dict[str, Films] = {}
    for site in track(range(sites), description="drawing", console=out, transient=True):
        films[f"site-{site + 1}"] = synthesise(patients, size=size, seed=seed, site=site)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DataError(f"{folder}: not empty; name a new folder")
        WRITERS[form](films, folder, CLASSES)
        contact_sheet(films, CLASSES).save(folder / "contact-sheet.png")
    except OSError as err:
        raise DataError(f"{folder}: cannot be written ({err.strerror}); check the path") from err
    for site_name, drawn in films.items():
        out.print(f"{site_name}: {len(drawn)} films of {drawn.patient_count} patients")
    out.print(f"written to {folder}, see contact-sheet.png", soft_wrap=True, markup=False)


@app.command()
def check(
    site_file: Annotated[Path, typer.Argument(metavar="SITE", help="The site file, YAML.")],
    plan_file: Annotated[Path, typer.Option("--plan", metavar="PLAN", help="The plan, YAML.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Load the films of SITE as its worker would for PLAN; the counts stay on this machine."""
    from primia.config import load_plan, load_site
    from primia.imaging import load_cohort

    site, plan = load_site(site_file), load_plan(plan_file)
    classes = plan.model.classes
    cohort = load_cohort(
        site.data,
        classes=classes,
        input_size=plan.model.input_size,
        min_patients=site.caps.min_patients,
    )
    parts = {"train": cohort.train, "validation": cohort.validation}
    if json:
        counts = {name: _counts(films, classes) for name, films in parts.items()}
        warnings = list(cohort.warnings)
        print_json({**counts, "quarantined": cohort.quarantined, "warnings": warnings})
        return
    _print_cohort(cohort, classes)


def _counts(films: Films, classes: tuple[str, ...]) -> dict[str, int]:
    by_class = {name: int((films.labels == i).sum()) for i, name in enumerate(classes)}
    return {"films": len(films), "patients": films.patient_count, **by_class}


def _print_cohort(cohort: Cohort, classes: tuple[str, ...]) -> None:
    from rich.markup import escape
    from rich.table import Table

    train, validation = _counts(cohort.train, classes), _counts(cohort.validation, classes)
    out.print("films of this site; the counts stay on this machine")
    table = Table()
    table.add_column("")
    table.add_column("train", justify="right")
    table.add_column("validation", justify="right")
    for name in train:
        table.add_row(name, str(train[name]), str(validation[name]))
    out.print(table)
    out.print("a worker splits the patients by a key of its own, so its two columns are others")
    out.print(f"quarantined: {cohort.quarantined}")
    for warning in cohort.warnings:
        out.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    out.print("[green]ok[/]  the films can be trained on")
