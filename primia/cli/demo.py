"""`primia demo`: a federation of real processes on this machine, from films to report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from primia.cli.console import note, out
from primia.cli.findings import verdict_text


def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="Real films: an NPZ, a CSV of films or a folder; else synthetic."),
    ] = None,
    sites: Annotated[int, typer.Option(min=3, max=20, help="Hospitals.")] = 3,
    rounds: Annotated[int | None, typer.Option(min=1, max=1000)] = None,
    no_dp: Annotated[bool, typer.Option("--no-dp", help="Train without privacy.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep everything in this new folder.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the synthetic films.")] = 0,
    no_attacks: Annotated[
        bool, typer.Option("--no-attacks", help="Leave attacks and audits out of the report.")
    ] = False,
    infer: Annotated[
        bool, typer.Option("--infer", help="Then ask the trained model, encrypted.")
    ] = False,
) -> None:
    """Hospitals and a coordinator as processes on this machine train a classifier together.

    Makes films, a study authority and hospitals, trains with DP-SGD and masked aggregation over
    mutual TLS, attacks the plan's own release path, and writes report.html and result.json.
    """
    import shutil
    import tempfile

    from primia.demo.run import Wishes, run
    from primia.demo.summary import show

    if keep is None:
        folder = Path(tempfile.mkdtemp(prefix="primia-demo-"))
    else:
        from primia.errors import ConfigError

        if keep.exists() and any(keep.iterdir()):
            raise ConfigError(f"{keep} is not empty; name a new folder for --keep")
        keep.mkdir(parents=True, exist_ok=True)
        folder = keep.resolve()  # the site files inside name their films
    wishes = Wishes(sites=sites, rounds=rounds, private=not no_dp, data=data, seed=seed)
    try:
        result = run(folder, wishes, out)
        show(result, out)
        if not no_attacks:
            _attack(result)
        if infer:
            _ask_encrypted(folder / "infer", result / "model-best.safetensors", data)
        if keep is None:
            target = Path("demo-out")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(result, target)
            result = target
        out.print(f"report: [bold]{result / 'report.html'}[/]", soft_wrap=True)
        out.print(f"result: {result / 'result.json'}", soft_wrap=True)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _attack(result: Path) -> None:
    """Attack and audit the plan on films of nobody, and put what was found into the report."""
    from primia.audit.suite import findings_for_report
    from primia.config.plan import StudyPlan
    from primia.errors import ConfigError
    from primia.learning.parallel import use_threads
    from primia.outcome import write_report
    from primia.report.record import from_json

    record = from_json((result / "result.json").read_text(encoding="utf-8"))
    plan = StudyPlan.model_validate_json((result / "plan.json").read_text(encoding="utf-8"))
    use_threads(1)  # small networks: a second thread costs more than it brings
    try:
        with out.status("attacks and audits") as status:
            found = findings_for_report(
                plan, on_step=lambda what: status.update(f"attacks and audits: {what}")
            )
    except ConfigError as err:
        note(f"no attacks in the report: {err}")
        return
    for finding in found:
        out.print(f"{verdict_text(finding.verdict)} {finding.title}", soft_wrap=True)
    write_report(record, plan, result, findings=found)


def _ask_encrypted(folder: Path, export: Path, data: Path | None) -> None:
    """Films that nobody shows, to the model that was just trained; plain answers beside."""
    from primia.infer import demo as roles
    from primia.infer.speaking import as_command
    from primia.inference.model_file import read

    as_command()
    folder.mkdir()
    model = folder / "model.safetensors"
    with out.status("preparing the trained model for encrypted queries"):
        roles.trained_model(model, export, data)
    edge = read(model)[0].input_shape[1]
    found = roles.run(folder, model, roles.drawn_films(folder / "films", edge, 6), out)
    out.print()
    for table in roles.tables(found):
        out.print(table)
        out.print()
