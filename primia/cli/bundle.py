"""`primia bundle`: what a machine without a network installs from, and its systemd units."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from primia.bundle.units import FILMS, PREFIX, Role, unit_text
from primia.cli.console import Json, out, print_json

app = typer.Typer(no_args_is_help=True, help="Make and check what is installed offline.")


@app.command()
def make(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New folder, or new .tar.")],
    wheels: Annotated[
        Path, typer.Option(help="Folder of wheels: pip wheel -c constraints.txt -w FOLDER .")
    ],
    extra: Annotated[list[str] | None, typer.Option(help="An extra of primia; repeat.")] = None,
    json: Json = False,
) -> None:
    """Put wheels, digests, units, examples and README together, for this Python and platform."""
    from primia.bundle.writing import write_bundle

    made = write_bundle(target, wheels, extra or ())
    if json:
        packages = {w.name: {"version": str(w.version), "licence": w.licence} for w in made.wheels}
        print_json({"path": str(made.path), "digest": made.digest, "packages": packages})
        return
    out.print(
        f"[green]wrote[/] {made.path}: {len(made.wheels)} wheels, {made.size / 1e6:.0f} MB",
        soft_wrap=True,
    )
    out.print("Read this digest of its SHA256SUMS to whoever installs it, by telephone:")
    out.print(f"  {made.digest}", soft_wrap=True)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder or .tar.")],
    digest: Annotated[
        str | None, typer.Option(help="Of its SHA256SUMS, as the maker told it.")
    ] = None,
    json: Json = False,
) -> None:
    """Hold every file against SHA256SUMS; nothing may be changed, missing or added."""
    from primia.bundle.checking import verify_bundle

    found = verify_bundle(bundle, digest)
    if json:
        print_json({"files": found.files, "wheels": found.wheels, "digest": found.digest})
        return
    out.print(
        f"[green]ok[/]  {found.files} files, {found.wheels} wheels, {found.size / 1e6:.0f} MB, "
        "all as listed",
        soft_wrap=True,
    )
    out.print(f"digest of SHA256SUMS {found.digest}", soft_wrap=True)
    if digest is None:
        out.print("Compare it with what the maker of the bundle reads to you.")


@app.command()
def unit(
    role: Annotated[Role, typer.Argument(metavar="worker|coordinator")],
    prefix: Annotated[Path, typer.Option(help="The environment it is installed in.")] = PREFIX,
    films: Annotated[Path, typer.Option(help="The films, for the worker.")] = FILMS,
) -> None:
    """Print the systemd unit of a daemon."""
    sys.stdout.write(unit_text(role, prefix=prefix, films=films))
