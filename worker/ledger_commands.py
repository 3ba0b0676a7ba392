"""`primia-worker ledger`: what the hospital's patients have shown, and the proof of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.cli.console import Json, out, print_json
from worker.options import HERE, SITE, Config, State

if TYPE_CHECKING:
    from worker.statement import Checked

app = typer.Typer(
    no_args_is_help=True,
    help="The privacy ledger of this hospital: over all studies, restarts and worker folders.",
)


@app.command()
def init(config: Config = SITE, state: State = HERE) -> None:
    """Make the empty ledger that the site file names (ledger.path); once for a hospital."""
    from primia.config import load_site
    from worker.books import init_ledger, key_path
    from worker.home import load

    load(state)
    path = init_ledger(state, load_site(config))
    out.print(f"[green]made[/]  {path} and {key_path(path).name} beside it", soft_wrap=True)
    out.print("Back up both: without them no worker of this hospital starts.", soft_wrap=True)


@app.command()
def show(config: Config = SITE, state: State = HERE, json: Json = False) -> None:
    """ε spent and left, and every charge."""
    from worker.budget import budget_json, budget_table

    found = budget_json(state, config)
    if json:
        print_json(found)
    else:
        out.print(budget_table(found))


@app.command()
def verify(
    config: Config = SITE,
    state: State = HERE,
    statement: Annotated[
        Path | None, typer.Option(help="Check this statement.json instead of the ledger.")
    ] = None,
    json: Json = False,
) -> None:
    """Check the chain of the ledger, or the signature of a statement made from one."""
    if statement is not None:
        _verify_statement(statement, state, json=json)
        return
    from primia.config import load_site
    from primia.types import Digest
    from worker.books import open_ledger
    from worker.home import load
    from worker.state import WorkerState
    from worker.work import check_books

    identity = load(state)
    book = WorkerState(state)
    try:
        with open_ledger(state, load_site(config)) as ledger:
            check_books(ledger, book, Digest(book.noted("plan") or ""), identity.site)
            head = ledger.verify()
    finally:
        book.close()
    if json:
        print_json({"rows": head.rows, "head": head.digest})
    else:
        out.print(f"[green]ok[/]  {head.rows} rows, the chain holds and ends with {head.digest}")


@app.command()
def statement(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the two files.")],
    config: Config = SITE,
    state: State = HERE,
) -> None:
    """Write OUT/statement.json and statement.html, signed: for the data protection officer."""
    from primia.config import load_site
    from worker.home import load
    from worker.statement import write_statement

    content = write_statement(target, state, load_site(config), load(state))
    out.print(
        f"{target / 'statement.html'}: {content['chain']['rows']} rows, signed; check it with "
        f"primia-worker ledger verify --statement {target / 'statement.json'}",
        soft_wrap=True,
        markup=False,
    )


@app.command()
def withdraw(
    patient: Annotated[
        str, typer.Argument(help="The id as in the films' table; - reads it from stdin.")
    ],
    config: Config = SITE,
    state: State = HERE,
    issuer: Annotated[
        str, typer.Option(help="IssuerOfPatientID, where DICOM files name one with the id.")
    ] = "",
) -> None:
    """Use a patient's films no more. Only a keyed fingerprint of the id is kept.

    The worker leaves the patient out from the next time it reads films, which asks for a new
    approval. What was charged stays charged, and models made before stay as they are.
    """
    import sys

    from primia.config import load_site
    from worker.books import withdraw_patient
    from worker.home import load

    load(state)
    name = sys.stdin.readline().strip() if patient == "-" else patient
    found = withdraw_patient(state, load_site(config), name, issuer)
    if not found.new:
        out.print("this patient was withdrawn before")
        return
    out.print("[green]withdrawn[/]  nothing is trained on this patient any more", soft_wrap=True)
    if found.cohorts:
        out.print(
            f"The patient was in {found.cohorts} cohort(s) that were trained on: those charges and "
            "models stay.",
            soft_wrap=True,
        )
    else:
        out.print(
            "[yellow]note[/]  no cohort of the ledger holds this id: check it for typing errors, "
            "unless the patient was never trained on",
            soft_wrap=True,
        )


def _verify_statement(path: Path, state: Path, *, json: bool) -> None:
    from worker.home import is_enrolled, load
    from worker.statement import check_statement

    known = load(state).authority if is_enrolled(state) else None
    checked: Checked = check_statement(path, known)
    if json:
        print_json({"signer": checked.signer, "certificate": checked.certificate})
        return
    out.print(f"[green]ok[/]  signed by {checked.signer}, unchanged since", soft_wrap=True)
    if known is None:
        out.print(f"Compare the certificate's SHA-256: {checked.certificate}", soft_wrap=True)
