"""`primia infer`: a prediction without showing the film or the model. Three roles, one command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.cli import infer_prepare
from primia.cli.console import err, note, out, print_json

if TYPE_CHECKING:
    from primia.infer.demo import Shown
    from primia.types import SiteId

app = typer.Typer(
    no_args_is_help=True,
    help="Encrypted prediction: model owner, data owner and dealer; neither film nor model shown.",
)

app.command("prepare")(infer_prepare.prepare)

State = Annotated[
    Path,
    typer.Option(
        "--state",
        help="The folder of this role.",
        envvar="PRIMIA_STATE",
        readable=False,  # one that is not is refused in our own words
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Once = Annotated[
    bool, typer.Option("--once", help="For scripts: well if this was done before, and no change.")
]
HERE = Path("infer-state")


@app.command()
def init(
    service: Annotated[str, typer.Argument(help="Name of the service: a-z, 0-9, hyphens.")],
    state: State = HERE,
    once: Once = False,
) -> None:
    """Model owner: make the authority that certifies data owners and the dealer."""
    from primia.infer.home import initialise, made_before

    found = made_before(state, service) if once else None
    if found is not None:
        out.print(
            f"the authority of {service} is there already; fingerprint {found}", soft_wrap=True
        )
        return
    fingerprint = initialise(state, service)
    out.print(f"[green]made[/] the authority of {service} in {state}", soft_wrap=True)
    out.print(f"fingerprint {fingerprint}", soft_wrap=True)
    out.print("next: invite the dealer and the data owners; they enrol while `serve` runs")


@app.command()
def invite(
    role: Annotated[str, typer.Argument(help="data-owner or dealer.")],
    name: Annotated[str, typer.Argument(help="Its name: a-z, 0-9, hyphens.")],
    address: Annotated[str, typer.Option(help="host:port at which it reaches this model owner.")],
    state: State = HERE,
    code_file: Annotated[
        Path | None, typer.Option(help="Write the code to this file (mode 0600), not the screen.")
    ] = None,
    films: Annotated[
        int | None, typer.Option(min=0, help="A data owner's query budget (usually 1000 films).")
    ] = None,
    per_day: Annotated[
        int | None, typer.Option(min=0, help="And in any 24 hours (usually 200 films).")
    ] = None,
    once: Once = False,
    json: Json = False,
) -> None:
    """Model owner: print a one-time code for a data owner or the dealer."""
    from dataclasses import asdict

    from primia.infer import home

    if once and home.has_certificate(state, role, _name(name)):
        out.print(f"{name} is enrolled already; nobody was invited", soft_wrap=True)
        return
    made = home.invite(state, role, _name(name), address, films=films, per_day=per_day)
    invitation, allowed = made.invitation, made.budget
    if code_file is not None:
        from primia.identity.code_file import write_code_file

        write_code_file(invitation, code_file)
    if made.replaced:
        note(f"the code that was given out for {name} before is void; only this one can be used")
    if json:
        shown = {"code": invitation.code()} if code_file is None else {"code_file": str(code_file)}
        limits = {} if allowed is None else {"films": allowed.films, "per_day": allowed.per_day}
        print_json({"name": name, "role": role, **shown, **limits, "fingerprint": made.fingerprint})
        return
    out.print(f"Code for the {role} {name}, once, until {invitation.not_after:%Y-%m-%d}:")
    where = f"(in {code_file})" if code_file is not None else invitation.code()
    out.print(f"  [bold]{where}[/]", soft_wrap=True)
    if allowed is not None:
        out.print(_may_ask(name, **asdict(allowed)), soft_wrap=True)
    dealers = "" if role == "dealer" else " --dealer-fingerprint …"
    out.print(
        "They save it to a file and run: primia infer enrol CODE-FILE --fingerprint …" + dealers,
        soft_wrap=True,
    )
    out.print("Read this fingerprint to them by telephone:")
    out.print(f"  {made.fingerprint}", soft_wrap=True)
    if dealers:
        out.print("The dealer's they have to hear from the dealer, not from you.")


@app.command()
def roster(
    state: State = HERE,
    strike: Annotated[str, typer.Option(help="Refuse this one from its next call on.")] = "",
    json: Json = False,
) -> None:
    """Model owner: who is enrolled, what they asked and have stocked; or strike one."""
    from primia.infer import overview

    if strike:
        overview.strike(state, _name(strike))
        out.print(f"[yellow]struck[/] {strike}; it is refused from now on")
    elif json:
        print_json(overview.roster_json(state))
    else:
        out.print(overview.roster_table(state))


@app.command()
def budget(
    name: Annotated[str, typer.Argument(help="The data owner.")],
    state: State = HERE,
    films: Annotated[int | None, typer.Option(min=0, help="Films in all.")] = None,
    per_day: Annotated[int | None, typer.Option(min=0, help="Films in any 24 hours.")] = None,
    json: Json = False,
) -> None:
    """Model owner: what a data owner may ask and has asked; or change it."""
    from primia.infer import overview

    found = overview.budget(state, _name(name), films=films, per_day=per_day)
    if json:
        print_json(found)
    else:
        out.print(_may_ask(name, **found), soft_wrap=True)


@app.command()
def enrol(
    code_file: Annotated[Path, typer.Argument(help="The file with the code.", readable=False)],
    state: State = HERE,
    fingerprint: Annotated[
        str | None, typer.Option(help="The authority's, as heard by telephone.")
    ] = None,
    dealer_fingerprint: Annotated[
        str | None,
        typer.Option(help="Data owner: the dealer's, as heard from the dealer by telephone."),
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the file to appear.")] = 0,
    once: Annotated[
        bool, typer.Option("--once", help="For scripts: well if this folder is enrolled already.")
    ] = False,
) -> None:
    """Data owner or dealer: turn a code into an identity."""
    from primia.identity.certificate import fingerprint as mark
    from primia.identity.code_file import read_code_file
    from primia.infer import home

    if once and home.is_enrolled(state):
        out.print(f"enrolled already, in {state.resolve()}", soft_wrap=True)
        return
    own = home.enrol(state, read_code_file(code_file, wait), fingerprint, dealer=dealer_fingerprint)
    out.print(f"[green]enrolled[/] as {home.called(own.identity)}", soft_wrap=True)
    out.print(f"the authority's fingerprint: {mark(own.authority)}", soft_wrap=True)
    if own.identity.role.value == "dealer":
        out.print("read this one to the data owners by telephone, it is yours:")
        out.print(f"  {mark(own.certificate)}", soft_wrap=True)
        out.print("next: primia infer dealer --listen HOST:PORT")
        return
    if dealer_fingerprint is None:
        note(
            "without --dealer-fingerprint the first dealer that the model owner names is taken; "
            "hear its fingerprint from the dealer by telephone, and run: primia infer trust "
            "FINGERPRINT"
        )
    out.print("next: primia infer stock 20, then primia infer ask FILM")


@app.command()
def trust(
    fingerprint: Annotated[str, typer.Argument(help="As heard from the dealer by telephone.")],
    state: State = HERE,
) -> None:
    """Data owner: pin another certificate of the dealer; what is stocked is discarded."""
    from primia.infer import overview

    overview.trust(state, fingerprint)
    out.print("[green]pinned[/]; sessions of the dealer before were discarded")


@app.command()
def serve(
    model: Annotated[Path, typer.Argument(help="The file that `prepare` made.", readable=False)],
    dealer: Annotated[str, typer.Option(help="host:port of the dealer.")],
    state: State = HERE,
    listen: Annotated[str, typer.Option(help="host:port to serve at.")] = "127.0.0.1:8444",
    noise: Annotated[
        float,
        typer.Option(min=0.0, max=100.0, help="Deviation of noise that the dealer adds to logits."),
    ] = 0.0,
    profile: Annotated[
        str, typer.Option(help="lan; or wan: half the messages, several times the material.")
    ] = "lan",
    log_json: Annotated[bool, typer.Option(help="Log JSON lines.")] = False,
) -> None:
    """Model owner: answer encrypted queries until stopped; data owners enrol with it."""
    from primia.infer.speaking import as_daemon

    as_daemon(json=log_json)
    from primia.infer import overview
    from primia.infer.engine import REAL
    from primia.infer.serving import serve_model
    from primia.inference.model_file import read  # type: ignore[import-not-found, unused-ignore]

    serve_model(state, model, listen, dealer, REAL, read, terms=overview.terms(noise, profile))


@app.command()
def dealer(
    state: State = HERE,
    listen: Annotated[str, typer.Option(help="host:port to serve at.")] = "127.0.0.1:8445",
    log_json: Annotated[bool, typer.Option(help="Log JSON lines.")] = False,
) -> None:
    """Dealer: make correlated randomness for both, keep nothing, see no prediction."""
    from primia.infer.speaking import as_daemon

    as_daemon(json=log_json)
    from primia.infer.engine import REAL
    from primia.infer.serving import serve_dealer

    serve_dealer(state, listen, REAL)


@app.command()
def stock(
    sessions: Annotated[int, typer.Argument(min=0, max=1000, help="How many more.")],
    state: State = HERE,
    films: Annotated[int, typer.Option(min=1, max=64, help="Films in each session.")] = 1,
    discard: Annotated[
        bool, typer.Option("--discard", help="First discard what is stocked here.")
    ] = False,
    json: Json = False,
) -> None:
    """Data owner: have sessions dealt beforehand, so that `ask` waits for no dealer."""
    from dataclasses import asdict

    from primia.infer import overview
    from primia.infer.checking import dealt_for
    from primia.infer.data_owner import DataOwner
    from primia.infer.engine import REAL
    from primia.infer.speaking import counted

    gone = overview.discard(state) if discard else 0
    with _shown() as progress, DataOwner(state, REAL, progress=progress, notice=note) as owner:
        made = owner.stock(sessions, films) if sessions else 0
        stocked = {f: n for (_, f), n in owner.store.stocked().items()}
        costs, here = owner.costs, owner.store.material_bytes()
    # What was dealt to be opened is gone by now.
    theirs = costs.material.received * made // dealt_for(made) if made else 0
    if json:
        sizes = {"model_owner_bytes": theirs, "bytes_here": here}
        print_json(
            {"made": made, "discarded": gone, "stocked": stocked, **sizes, "costs": asdict(costs)}
        )
        return
    if discard:
        out.print(f"[yellow]discarded[/] {counted(gone, 'session')}")
    if made:
        out.print(
            f"[green]stocked[/] {counted(made, 'session')} in {costs.material.seconds:.1f} s; "
            f"until they are used they take {theirs / 1e6:.1f} MB at the model owner",
            soft_wrap=True,
        )
    for size, count in sorted(stocked.items()):
        out.print(f"ready: {counted(count, 'session')} of {counted(size, 'film')}")
    out.print(f"on this disk: {here / 1e6:.1f} MB")


@app.command()
def ask(
    films: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG files.", readable=False)],
    state: State = HERE,
    batch: Annotated[
        int, typer.Option(min=1, max=64, help="Films in one session; more memory, less waiting.")
    ] = 4,
    answer_file: Annotated[
        Path | None, typer.Option(help="Also write the answers here (JSON, mode 0600).")
    ] = None,
    show_costs: Annotated[
        bool, typer.Option("--costs", help="Also show seconds and megabytes of each phase.")
    ] = False,
    json: Json = False,
) -> None:
    """Data owner: the model's answers for films that nobody else sees."""
    import numpy as np

    from primia.infer import answers
    from primia.infer.data_owner import DataOwner
    from primia.infer.engine import REAL
    from primia.infer.films import read

    with _shown() as progress, DataOwner(state, REAL, progress=progress, notice=note) as owner:
        program = owner.program
        encoded = read(films, program)
        values = np.concatenate([p.values for p in owner.ask(encoded, batch)])
        costs, noise = owner.costs, owner.terms.noise
    found = answers.answered(films, program.classes, values)
    plain = answers.as_json(found, program.answer, program.digest, noise, costs)
    if answer_file is not None:
        import json as json_module

        from primia.identity.keyfile import store

        store(answer_file, json_module.dumps(plain, indent=2).encode() + b"\n")
    if json:
        print_json(plain)
        return
    out.print(answers.table(found, program.answer))
    if noise:
        out.print(f"the model owner has noise of deviation {noise:g} added to every logit")
    if show_costs:
        out.print()
        out.print(answers.costs_table(costs))


@app.command()
def demo(
    size: Annotated[int, typer.Option(min=28, max=512, help="Edge of the films, pixels.")] = 224,
    films: Annotated[int, typer.Option(min=1, max=50, help="How many are asked about.")] = 3,
    model: Annotated[
        Path | None, typer.Option(help="A study's model-best.safetensors; else random weights.")
    ] = None,
    json: Json = False,
) -> None:
    """The three roles as processes on this machine; encrypted and plain answers side by side."""
    import tempfile
    from dataclasses import asdict

    from primia.infer import demo as show
    from primia.infer.speaking import as_command
    from primia.inference.model_file import read

    as_command()
    with tempfile.TemporaryDirectory(prefix="primia-infer-") as name:
        folder = Path(name)
        file = folder / "model.safetensors"
        with err.status("preparing the model"):
            if model is None:
                show.random_model(file, size)
            else:
                show.trained_model(file, model, None)
        edge = read(file)[0].input_shape[1]
        found = show.run(folder, file, show.drawn_films(folder / "films", edge, films), err)
    if json:
        print_json(asdict(found))
    else:
        _print_demo(found)


def _print_demo(found: Shown) -> None:
    from primia.infer.demo import tables

    for table in tables(found):
        out.print(table)
        out.print()
    out.print(f"{found.agree} of {len(found.films)} answers are the same")


def _may_ask(name: str, films: int, per_day: int, asked: int, asked_today: int) -> str:
    return (
        f"{name} may ask about {films} films in all ({asked} asked), and {per_day} in any 24 hours "
        f"({asked_today} asked)"
    )


def _name(text: str) -> SiteId:
    from primia.errors import ConfigError
    from primia.types import site_id

    try:
        return site_id(text)
    except ValueError as error:
        raise ConfigError(str(error)) from error


@contextmanager
def _shown() -> Iterator[Callable[[str, float], None]]:
    """A progress bar on the terminal, if there is one."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from primia.infer.speaking import as_command

    as_command()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("connecting", total=1.0)
        yield lambda what, part: bar.update(task, description=what, completed=part)
