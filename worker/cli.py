"""`primia-worker`: the hospital's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from primia.cli.console import Json, out, print_json, run, version_option
from worker import ledger_commands, plan_commands, quality_commands
from worker.options import HERE, SITE, Config, State

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Take part in a federated study: films stay here, only a noised, masked update leaves.",
)
app.callback(invoke_without_command=True)(version_option)


app.add_typer(plan_commands.app, name="plan")
app.add_typer(ledger_commands.app, name="ledger")
app.add_typer(quality_commands.app, name="quality")
app.command("budget")(ledger_commands.show)  # as `ledger show`


@app.command()
def enrol(
    code: Annotated[str, typer.Argument(help="The one-time code of the invitation.")] = "",
    state: State = HERE,
    code_file: Annotated[
        Path | None, typer.Option(help="Read the code from this file: it is a secret until used.")
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for --code-file to appear.")
    ] = 0,
    once: Annotated[
        bool, typer.Option("--once", help="For scripts: well if this folder is enrolled already.")
    ] = False,
    fingerprint: Annotated[
        str | None,
        typer.Option(help="The authority's fingerprint as heard by telephone; checked."),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Replace an expired or struck certificate; keeps the key."),
    ] = False,
) -> None:
    """Make this site's key, have it certified, and remember whom to trust."""
    from primia.errors import ConfigError
    from primia.identity.code_file import read_code_file
    from worker import home

    if once and home.is_enrolled(state):
        out.print(f"enrolled already, in {state.resolve()}", soft_wrap=True)
        return
    if bool(code) == (code_file is not None):
        raise ConfigError("give the code of the invitation, or --code-file, and not both")
    if code_file is not None:
        code = read_code_file(code_file, wait)
    identity, found = home.enrol(state, code, fingerprint, again=again)
    out.print(f"[green]enrolled[/] as {identity.site} at {identity.address}", soft_wrap=True)
    out.print(f"authority {found}", soft_wrap=True)
    out.print(
        f"kept in {state.resolve()}; next: primia-worker doctor, then: "
        "primia-worker plan show --config site.yaml",
        soft_wrap=True,
    )
    if fingerprint is None:
        out.print("Compare it with the fingerprint the coordinator's operator reads to you.")


@app.command("run")
def run_(
    config: Config,
    state: State = HERE,
    metrics: Annotated[
        str, typer.Option(help="Serve Prometheus metrics at host:port, such as 127.0.0.1:9465.")
    ] = "",
    metrics_public: Annotated[
        bool, typer.Option(help="Let --metrics be an address that other machines reach.")
    ] = False,
    log_json: Annotated[bool, typer.Option(help="Log JSON lines.")] = False,
) -> None:
    """Dial the coordinator and take part in rounds until the study is over."""
    from primia.logs import configure
    from primia.metrics import check_address
    from worker import daemon

    configure(json=log_json)
    address = check_address(metrics, public=metrics_public) if metrics else None
    daemon.run(state, config, metrics_at=address)


@app.command()
def doctor(
    config: Annotated[Path, typer.Option("--config", help="The site file, YAML.")] = SITE,
    state: State = HERE,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show every check, not only what is to do.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Audit the release of updates here, too (10 s and more).")
    ] = False,
    json: Json = False,
) -> None:
    """Would this site take part? Looks at everything, changes nothing, says what to mend.

    Works before enrolment, and beside the running worker. Ends with 0 when nothing has to be
    mended, else with 1.
    """
    import os
    import sys

    from rich.text import Text

    from primia.logs import quiet
    from worker.doctor.examine import examine
    from worker.doctor.report import as_json, must_mend, render

    quiet()
    visit = examine(state, config, deep=deep)
    if json:
        print_json(as_json(visit))
    else:
        for part in render(visit, verbose=verbose):
            out.print(part, soft_wrap=isinstance(part, Text))  # commands stay whole
    if visit.slow:  # a thread that hangs would keep the process
        sys.stdout.flush()
        os._exit(int(must_mend(visit)))
    if must_mend(visit):
        raise typer.Exit(1)


@app.command()
def peers(
    state: State = HERE,
    forget: Annotated[
        str, typer.Option(help="Drop a peer's pin, after comparing its new key's fingerprint.")
    ] = "",
) -> None:
    """The keys pinned for the other sites, and this site's own."""
    from rich.table import Table

    from primia.errors import StateError
    from primia.identity.certificate import key_fingerprint
    from primia.types import SiteId
    from worker.home import load
    from worker.state import WorkerState

    identity = load(state)
    book = WorkerState(state)
    if forget:
        if not book.forget_peer(SiteId(forget)):
            raise StateError(f"no key is pinned for {forget}")
        out.print(f"forgot {forget}; its key is pinned anew when next seen")
        return
    table = Table(title="pinned peers")
    table.add_column("site")
    table.add_column("public key (SHA-256)", overflow="fold")
    table.add_row(f"{identity.site} (this site)", key_fingerprint(identity.certificate))
    for site, fingerprint in book.peers().items():
        table.add_row(site, fingerprint)
    out.print(table)


def main() -> None:
    """Entry point of the console script."""
    run(app)
