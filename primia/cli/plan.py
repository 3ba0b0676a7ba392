"""`primia plan`: read a study plan, and say what it costs a patient, before anyone trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from primia.cli.console import out, print_json

app = typer.Typer(no_args_is_help=True, help="Check and price a study plan.")

PlanFile = Annotated[Path, typer.Argument(metavar="FILE", help="The plan, YAML.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.command()
def check(file: PlanFile, json: Json = False) -> None:
    """Read FILE strictly; print its digest, or every mistake with its remedy."""
    from primia.config import load_plan, plan_digest
    from primia.settle import settle

    plan = load_plan(file)
    digest = plan_digest(settle(plan))
    if json:
        print_json({"study": plan.study, "sites": list(plan.sites), "digest": digest})
        return
    privacy = "no differential privacy" if plan.privacy == "none" else "DP-SGD per patient"
    out.print(
        f"[green]ok[/]  {plan.study}: {len(plan.sites)} sites, {plan.rounds} rounds, "
        f"{plan.model.name}, {privacy}"
    )
    out.print(f"digest {digest}", soft_wrap=True)


@app.command()
def price(file: PlanFile, json: Json = False) -> None:
    """What one patient's participation costs at each site: ε for the plan's δ, round by round."""
    from rich.table import Table

    from primia.config import load_plan
    from primia.settle import price_plan, settle

    plan = settle(load_plan(file))
    if plan.privacy == "none":
        if json:
            print_json({"study": plan.study, "epsilon": None, "privacy": "none"})
        else:
            out.print(
                "[bold yellow]privacy: none[/] - no bound on what the model shows of a patient"
            )
        return
    priced = price_plan(plan)
    if json:
        print_json({"study": plan.study, **priced.as_dict(), "sites": list(plan.sites)})
        return
    table = Table(
        title=f"{plan.study}: ε of one patient at δ = {priced.delta:g}, add or remove one"
    )
    # As wide as 80 columns allow. RDP is an upper bound, too; only GDP-CLT may lie below the truth.
    for column in ("rounds", "steps", "ε (PLD, decides)", "ε (RDP)", "ε (GDP-CLT, not a bound)"):
        table.add_column(column, justify="right")
    for row in priced.rows:
        table.add_row(
            str(row.rounds),
            str(row.steps),
            f"{row.epsilon:.3f}",
            f"{row.epsilon_rdp:.3f}",
            f"{row.epsilon_gdp:.3f}",
        )
    out.print(table)
    out.print(
        f"noise multiplier {priced.noise_multiplier:g}, sampling rate {priced.sampling_rate:g}, "
        f"clip norm {plan.privacy.clip_norm:g}. The same for every site: {', '.join(plan.sites)}.",
        soft_wrap=True,
    )
