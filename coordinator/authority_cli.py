"""`primia-coordinator authority`: replace the study authority while the study runs."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.options import HERE, State
from primia.cli.console import Json, out, print_json

app = typer.Typer(
    no_args_is_help=True,
    help="Replace the study authority while the study runs; nobody has to enrol again.",
)


@app.command()
def rotate(state: State = HERE) -> None:
    """Make a new authority, endorsed by the old one; both are valid until `retire`."""
    from coordinator import rotation
    from coordinator.state import CoordinatorState

    made = rotation.rotate(state, CoordinatorState(state))
    out.print("[green]made[/] a new authority, endorsed by the one in use", soft_wrap=True)
    out.print(f"fingerprint {made}", soft_wrap=True)
    out.print(
        "workers move to it by themselves; keep the folder authority/ here until they have: "
        "primia-coordinator authority status",
        soft_wrap=True,
    )


@app.command()
def status(state: State = HERE, json: Json = False) -> None:
    """Which authorities are valid, for how long, and which sites are with which."""
    from coordinator import rotation
    from coordinator.show import authorities_json, authorities_table
    from coordinator.state import CoordinatorState

    found = rotation.standings(state, CoordinatorState(state))
    if json:
        print_json(authorities_json(found))
    else:
        out.print(authorities_table(found))


@app.command()
def retire(
    state: State = HERE,
    force: Annotated[
        bool, typer.Option("--force", help="Also if sites are cut off by it; they enrol again.")
    ] = False,
) -> None:
    """End the overlap: the old authority, and all it certified, is refused from now on."""
    from coordinator import rotation
    from coordinator.state import CoordinatorState

    old, deleted = rotation.retire(state, CoordinatorState(state), force=force)
    out.print(f"[yellow]retired[/] {old}", soft_wrap=True)
    if deleted:
        out.print("its key was deleted from the folder authority/; delete other copies, too")
    else:
        out.print("its key is not here: delete it where it is kept")
    out.print("codes that were not used are void: invite these sites again", soft_wrap=True)
