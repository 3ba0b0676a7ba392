"""`primia attack`: the attacks of the literature, on this study's own code path."""

from __future__ import annotations

import typer

from primia.cli import attack_imprint, attack_invert, attack_labels, attack_membership

app = typer.Typer(
    no_args_is_help=True,
    help="Attack updates and models as a curious coordinator would, and see what it gets.",
)


@app.callback()
def attack() -> None:
    """Attack updates and models as a curious coordinator would, and see what it gets."""


app.command("imprint")(attack_imprint.imprint)
app.command("invert")(attack_invert.invert)
app.command("labels")(attack_labels.labels)
app.command("membership")(attack_membership.membership)
