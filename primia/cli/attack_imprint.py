"""`primia attack imprint`."""

from __future__ import annotations

from typing import Annotated

import typer

from primia.cli.attack_options import Data, Plan, Seed, Size
from primia.cli.console import Json, err
from primia.cli.findings import Out, show


def imprint(
    plan: Plan = None,
    data: Data = None,
    size: Size = None,
    films: Annotated[int, typer.Option(min=3, max=256, help="In the masked sum.")] = 64,
    bins: Annotated[int, typer.Option(min=2, max=4096, help="Of the hostile layer.")] = 512,
    seed: Seed = 0,
    to: Out = None,
    json: Json = False,
) -> None:
    """Read films out of a masked sum through a first layer made for it.

    Shows why a plan names a network of the zoo and a worker takes no other.
    """
    # From the first moment on: drawing films takes longer than the attack.
    with err.status("reading films" if data else "drawing films") as status:
        from primia.audit.films import case_of
        from primia.audit.imprint import attack_imprint, check_layer

        if size is not None:
            check_layer(size, 1, bins)
        case = case_of(plan, data, size, seed)
        finding = attack_imprint(case, films=films, bins=bins, seed=seed, on_step=status.update)
    show(finding, to, json=json)
