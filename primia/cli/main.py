"""The `primia` command: plans, data, the demonstration. Heavy modules load when they are needed."""

from __future__ import annotations

import typer

from primia.cli import attack, audit, audit_log, bundle, data, demo, infer, plan, report, simulate
from primia.cli.console import run, version_option

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Privacy-preserving federated learning for medical imaging.",
)
app.add_typer(plan.app, name="plan")
app.add_typer(data.app, name="data")
app.add_typer(bundle.app, name="bundle")
app.add_typer(infer.app, name="infer")
app.add_typer(attack.app, name="attack")
app.add_typer(audit.app, name="audit")
app.add_typer(audit_log.app, name="audit-log")
app.command("demo")(demo.demo)
app.command("report")(report.report)
app.command("simulate")(simulate.simulate)
app.callback(invoke_without_command=True)(version_option)


def main() -> None:
    """Entry point of the console script."""
    run(app)
