"""`primia-coordinator`: the research lead's commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.authority_cli import app as authority_app
from coordinator.options import HERE, State
from primia.cli.console import Json, out, print_json, run, version_option

if TYPE_CHECKING:
    from coordinator.state import CoordinatorState
    from primia.report.record import StudyRecord

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run a federated study: enrol hospitals, run its rounds, export model and report.",
)
app.callback(invoke_without_command=True)(version_option)
app.add_typer(authority_app, name="authority")

Once = Annotated[
    bool, typer.Option("--once", help="For scripts: well if this was done before, and no change.")
]


@app.command()
def init(
    study: Annotated[str, typer.Argument(help="Name of the study: a-z, 0-9, hyphens.")],
    state: State = HERE,
    once: Once = False,
) -> None:
    """Make the study authority and the coordinator's own certificate."""
    from coordinator.home import initialise, made_before

    found = made_before(state, study) if once else None
    if found is not None:
        out.print(f"the authority of {study} is there already; fingerprint {found}", soft_wrap=True)
        return
    fingerprint = initialise(state, study)
    out.print(f"[green]made[/] the authority of {study} in {state}", soft_wrap=True)
    out.print(f"fingerprint {fingerprint}", soft_wrap=True)
    out.print("next: invite each hospital, and start (hospitals enrol while it runs)")


@app.command()
def invite(
    site: Annotated[str, typer.Argument(help="The hospital's name in the plan.")],
    address: Annotated[
        str, typer.Option(help="host:port at which the hospital reaches this coordinator.")
    ],
    state: State = HERE,
    code_file: Annotated[
        Path | None, typer.Option(help="Write the code to this file (mode 0600), not the screen.")
    ] = None,
    once: Once = False,
    json: Json = False,
) -> None:
    """Print a one-time code for SITE and the authority's fingerprint."""
    from coordinator import home
    from primia.errors import ConfigError
    from primia.types import site_id

    try:
        name = site_id(site)
    except ValueError as err:
        raise ConfigError(str(err)) from err
    if once and home.is_enrolled(state, name):
        out.print(f"{site} is enrolled already; nobody was invited", soft_wrap=True)
        return
    invitation, fingerprint = home.invite(state, name, address)
    if code_file is not None:
        from primia.identity.code_file import write_code_file

        write_code_file(invitation, code_file)
    if json:
        shown = {"code": invitation.code()} if code_file is None else {"code_file": str(code_file)}
        print_json({"site": site, **shown, "fingerprint": fingerprint})
        return
    out.print(f"Code for {site}, once, until {invitation.not_after:%Y-%m-%d}:", soft_wrap=True)
    how = invitation.code() if code_file is None else f"--code-file {code_file}"
    out.print(f"  [bold]primia-worker enrol {how}[/]", soft_wrap=True)
    out.print("Read this fingerprint to them by telephone; their command prints it too:")
    out.print(f"  {fingerprint}", soft_wrap=True)


@app.command()
def roster(
    state: State = HERE,
    strike: Annotated[str, typer.Option(help="Refuse this site from its next call on.")] = "",
    readmit: Annotated[
        str, typer.Option(help="Invite this site again after the rounds that it missed.")
    ] = "",
    json: Json = False,
) -> None:
    """Who is enrolled or invited, last seen, days left of the certificate; strike or readmit."""
    from coordinator.show import sites_json, sites_table
    from primia.types import SiteId

    book = _open(state)
    if strike:
        book.strike(SiteId(strike))
        out.print(f"[yellow]struck[/] {strike}; it is refused from now on, in open calls too")
        return
    if readmit:
        book.readmit(SiteId(readmit))
        out.print(f"[green]readmitted[/] {readmit}; it is invited to the next round")
        return
    if json:
        print_json(sites_json(book))
    else:
        out.print(sites_table(book))


@app.command()
def start(
    state: State = HERE,
    plan: Annotated[
        Path | None, typer.Option(help="The plan, YAML; needed at the first start only.")
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            help="host:port to serve at; 0.0.0.0:8443 for hospitals on other machines.",
        ),
    ] = "127.0.0.1:8443",
    stay: Annotated[bool, typer.Option(help="Keep serving when the study is over.")] = False,
    metrics: Annotated[
        str, typer.Option(help="Serve Prometheus metrics at host:port, such as 127.0.0.1:9464.")
    ] = "",
    metrics_public: Annotated[
        bool, typer.Option(help="Let --metrics be an address that other machines reach.")
    ] = False,
    log_json: Annotated[bool, typer.Option(help="Log JSON lines.")] = False,
) -> None:
    """Serve the study and run its rounds; after a stop or crash it resumes where it was."""
    from primia.logs import configure
    from primia.metrics import check_address
    from primia.wire import handshakes

    handshakes.hear()  # before gRPC is loaded
    from coordinator import daemon

    configure(json=log_json)
    address = check_address(metrics, public=metrics_public) if metrics else None
    daemon.start(state, plan, listen, stay=stay, metrics_at=address)


@app.command()
def status(
    state: State = HERE,
    watch: Annotated[bool, typer.Option(help="Refresh until the study is over.")] = False,
    json: Json = False,
) -> None:
    """Where the study stands: round, phase, who is waited for, quality so far."""
    from coordinator.show import status_json, status_panel, watch_status

    book = _open(state)
    if json:
        print_json(status_json(book))
    elif watch:
        watch_status(book)
    else:
        out.print(status_panel(book))


@app.command()
def rounds(state: State = HERE, json: Json = False) -> None:
    """Every round and attempt: who took part, how good the model was."""
    from dataclasses import asdict

    from primia.outcome import epsilon_by_round
    from primia.report.terminal import rounds_table

    record, plan = _record(_open(state))
    if json:
        scores = {m.number: m.scores and asdict(m.scores) for m in record.models}
        # Of the model that the round started from: it is counted in the sum of the next round.
        print_json([asdict(a) | {"scores": scores.get(a.number - 1)} for a in record.attempts])
    else:
        out.print(rounds_table(record, epsilon_by_round=epsilon_by_round(plan)))


@app.command()
def why(state: State = HERE, json: Json = False) -> None:
    """What did not go well: site, phase, reason, and what to do about it."""
    from coordinator.why import everything, text_of

    book = _open(state)
    record, _ = _record(book)
    found = everything(book, record)
    if json:
        print_json(found)
    elif not record.attempts and not found:
        out.print("no round has been opened yet; `primia-coordinator status` says who is away")
    elif not found:
        out.print("[green]nothing[/] went wrong: every site was in every round")
    else:
        out.print(text_of(found))


@app.command()
def stop(state: State = HERE) -> None:
    """Ask the running coordinator to end; the study can be resumed later."""
    from coordinator.show import stop_daemon

    out.print(stop_daemon(state))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if missing.")],
    state: State = HERE,
) -> None:
    """Write report.html, result.json, plan.json, and the best and last model."""
    from coordinator.export import write_export

    for path in write_export(_open(state), state, folder):
        out.print(f"[green]wrote[/] {path}", soft_wrap=True)


def _open(folder: Path) -> CoordinatorState:
    from coordinator.state import CoordinatorState

    return CoordinatorState(folder)


def _record(state: CoordinatorState) -> tuple[StudyRecord, Any]:
    from coordinator.record import study_record
    from primia.config.plan import StudyPlan

    record = study_record(state)
    import json as json_module

    plan = StudyPlan.model_validate_json(json_module.dumps(record.plan))
    return record, plan


def main() -> None:
    """Entry point of the console script."""
    run(app)
