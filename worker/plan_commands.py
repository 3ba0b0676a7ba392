"""`primia-worker plan`: read what the hospital is asked to agree to, and agree or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from primia.cli.console import Json, out, print_json
from primia.errors import ConfigError
from worker.options import HERE, SITE, Config, State

if TYPE_CHECKING:
    from worker.approval import Person, Standing

app = typer.Typer(
    no_args_is_help=True,
    help="Show what a study asks of this hospital; approve it or refuse it.",
)

Name = Annotated[str, typer.Option("--as", help="The person who decides this.")]
Role = Annotated[str, typer.Option(help="In which role, such as 'data protection officer'.")]


@app.command()
def show(config: Config = SITE, state: State = HERE, json: Json = False) -> None:
    """One page: who asks, what is trained on which films, what leaves, what it costs a patient."""
    from worker.page import read_page, render

    page = read_page(state, config)
    if json:
        print_json(page.as_dict())
    else:
        out.print(render(page))
    page.shown(state)


@app.command()
def approve(
    config: Config = SITE,
    state: State = HERE,
    name: Name = "",
    role: Role = "",
    json: Json = False,
) -> None:
    """Agree that this plan is trained on these films; any change to either asks again."""
    from worker.page import approve_page, read_page, render

    if not name.strip():
        raise ConfigError("an approval names a person: say who decides with --as NAME")
    page = read_page(state, config)
    found = approve_page(state, page, person(name, role))
    if json:
        print_json({**page.as_dict(), "approval": _as_dict(found)})
        return
    out.print(render(page))
    if found.missing:
        out.print(f"[yellow]not yet[/]  {found.why}", soft_wrap=True)
    else:
        out.print(
            f"[green]approved[/]  plan {page.plan_digest[:16]}… and cohort "
            f"{page.cohort_digest[:16]}… by {', '.join(found.approved_by)}",
            soft_wrap=True,
        )


@app.command()
def refuse(
    state: State = HERE,
    name: Name = "",
    role: Role = "",
    reason: Annotated[str, typer.Option(help="Kept here, not sent to anybody.")] = "",
) -> None:
    """Take back what was approved; in force before the next round's training."""
    from worker.approval import refuse as record
    from worker.home import load
    from worker.state import WorkerState

    load(state)
    book = WorkerState(state)
    try:
        record(book, person(name, role), reason)
    finally:
        book.close()
    out.print(
        "[green]refused[/]  nothing is trained until it is approved again. What was released "
        "before stays released and charged.",
        soft_wrap=True,
    )


@app.command()
def accept_model(
    digest: Annotated[str, typer.Argument(help="The model's SHA-256, as the refusal names it.")],
    state: State = HERE,
    name: Name = "",
    role: Role = "",
) -> None:
    """Answer for one model that this site refused; it is worked on when next asked for."""
    from primia.types import Digest
    from worker.home import load
    from worker.state import WorkerState

    who = answerable(name, role, "accepting a model")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ConfigError(
            f"{digest!r} is not a model's digest, which has 64 digits 0-9 and a-f; copy it from "
            "the refusal in the log"
        )
    load(state)
    book = WorkerState(state)
    try:
        book.accept_model(
            Digest(digest), name=who.name.strip(), role=who.role.strip(), account=who.account
        )
    finally:
        book.close()
    out.print(
        f"[green]accepted[/]  model {digest[:16]}… by {who.name.strip()}; other models are held "
        "against it from now on",
        soft_wrap=True,
    )


def answerable(name: str, role: str, what: str) -> Person:
    """Who decides, where name and role must be given. Raises ConfigError."""
    if not name.strip() or not role.strip():
        raise ConfigError(f"{what} is a person's decision: say whose with --as NAME --role ROLE")
    return person(name, role)


def person(name: str, role: str) -> Person:
    """Who decides, with the account that typed it."""
    import getpass

    from worker.approval import Person

    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        account = "unnamed account"
    return Person(name or account, role, account)


def _as_dict(found: Standing) -> dict[str, object]:
    return {
        "approved": not found.missing,
        "approved_by": list(found.approved_by),
        "missing": found.missing,
    }
