"""`primia plan`: read a study plan, and say what it costs a patient, before anyone trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.cli.console import Json, out, print_json

if TYPE_CHECKING:
    from primia.config import StudyPlan

app = typer.Typer(
    no_args_is_help=True, help="Check and price a study plan; write the annex for data protection."
)

PlanFile = Annotated[Path, typer.Argument(metavar="FILE", help="The plan, YAML.")]


@app.command()
def check(file: PlanFile, json: Json = False) -> None:
    """Read FILE strictly; print its digest, or every mistake with its remedy."""
    from primia.config import load_plan, plan_digest
    from primia.learning.terms import is_distributed
    from primia.settle import settle

    plan = settle(load_plan(file))
    digest = plan_digest(plan)
    if is_distributed(plan):
        _check_that_the_noise_fits(plan)
    if json:
        print_json({"study": plan.study, "sites": list(plan.sites), "digest": digest})
        return
    privacy = "no differential privacy" if plan.privacy == "none" else "DP-SGD per patient"
    out.print(
        f"[green]ok[/]  {plan.study}: {len(plan.sites)} sites, {plan.rounds} rounds, "
        f"{plan.model.name}, {privacy}",
        soft_wrap=True,
    )
    if plan.privacy != "none" and is_distributed(plan):
        out.print(
            "[yellow]note[/]  privacy.noise distributed: the guarantee holds against the "
            f"coordinator together with up to {plan.colluding_sites} of the sites; a site's own "
            "share alone does not protect its patients",
            soft_wrap=True,
        )
    if plan.aggregation.groups > 1:
        out.print(
            f"[yellow]note[/]  aggregation.groups {plan.aggregation.groups}: each group's sum "
            "becomes known to the coordinator, so a site hides among its group (3 sites or more), "
            "not among all",
            soft_wrap=True,
        )
    out.print(f"digest {digest}", soft_wrap=True)


def _check_that_the_noise_fits(plan: StudyPlan) -> None:
    """Raises ConfigError as the coordinator would at its start."""
    from primia.learning.federated import learning_coordinates
    from primia.study import contribution

    contribution(plan, learning_coordinates(plan.model).size)


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
    # As wide as 80 columns allow. RDP is an upper bound, too; only GDP-CLT may lie below the truth.
    figures = {"ε (RDP)": "epsilon_rdp", "ε (GDP-CLT, not a bound)": "epsilon_gdp"}
    if priced.decides == "RDP":  # shared noise: nothing finer is proved for it
        del figures["ε (RDP)"]
    figures = {f"ε ({priced.decides}, decides)": "epsilon", **figures}
    table = Table(title=f"{plan.study}: ε of one patient, δ = {priced.delta:g}")
    for column in ("rounds", "steps", *figures):
        table.add_column(column, justify="right")
    for row in priced.rows:
        found = (f"{getattr(row, name):.3f}" for name in figures.values())
        table.add_row(str(row.rounds), str(row.steps), *found)
    out.print(table)
    out.print(
        f"noise multiplier {priced.noise_multiplier:g}, sampling rate {priced.sampling_rate:g}, "
        f"clip norm {plan.privacy.clip_norm:g}; add or remove one patient. "
        f"The same for every site: {_names(plan.sites)}.",
        soft_wrap=True,
    )
    if priced.decides == "RDP":
        out.print(
            f"The sites add the noise together: this holds against the coordinator together "
            f"with up to {plan.colluding_sites} of them.",
            soft_wrap=True,
        )


@app.command()
def annex(
    file: PlanFile,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A new file, .html or .md.")],
    site: Annotated[
        Path | None, typer.Option(help="The hospital's own file, for its limits and films.")
    ] = None,
) -> None:
    """Write the annex to a data protection impact assessment, filled in from FILE."""
    from datetime import UTC, datetime

    import primia
    from primia.annex import annex as fill_in
    from primia.annex import to_html, to_markdown
    from primia.config import load_plan, load_site, plan_digest
    from primia.errors import ConfigError
    from primia.settle import settle

    forms = {".html": to_html, ".md": to_markdown}
    if target.suffix not in forms:
        raise ConfigError(f"{target}: the name has to end with .html or .md")
    plan = settle(load_plan(file))
    config = None if site is None else load_site(site)
    made = f"{datetime.now(UTC):%Y-%m-%d}"
    text = forms[target.suffix](fill_in(plan, config, made=made, version=primia.__version__))
    try:
        with target.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as err:
        raise ConfigError(f"{target} is there already; name a new file") from err
    except OSError as err:
        raise ConfigError(f"cannot write {target}: {err.strerror}; check the folder") from err
    out.print(f"[green]wrote[/]  {target}, for the plan {plan_digest(plan)}", soft_wrap=True)


def _names(sites: tuple[str, ...]) -> str:
    """All names, or some and how many more: a plan may name a thousand."""
    if len(sites) <= 12:
        return ", ".join(sites)
    return f"{', '.join(sites[:10])} and {len(sites) - 10} more"
