"""How the cost of a round grows with the number of sites, at a site and at the coordinator.

    python -m benchmarks.secagg.curve [--length D] [--sites 3,10,...] [--lost SHARE]

Small messages (keys, signatures, shares, their checks): one real round in memory for each n, on
the product's two machines, with short vectors. Long vectors: a site's masks measured up to 50
partners and beyond that per partner; the coordinator's folding and unmasking per vector and per
mask. CPU time, one thread. Above 100 sites a site has some neighbours only
(`primia.secagg.topology`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.secagg import vectors
from benchmarks.secagg.peers import Peers
from benchmarks.secagg.rounds import Game
from benchmarks.secagg.run import RESULTS, machine
from benchmarks.secagg.timing import in_turns
from primia.secagg.masks import Mask, apply_masks
from primia.secagg.packing import pack
from primia.secagg.topology import Topology, ring

Row = dict[str, Any]

DIRECT = (2, 4, 9, 19, 49)
"""Partners for which a site's masks are measured; beyond, the last two give the slope."""

PARTS = {
    "site_vector_s": ("site: quantise, mask, pack", "C0"),
    "site_messages_s": ("site: messages", "C1"),
    "coordinator_fold_s": ("coordinator: fold", "C2"),
    "coordinator_unmask_s": ("coordinator: unmask", "C3"),
    "coordinator_messages_s": ("coordinator: messages", "C4"),
}


class LongVectors:
    """Seconds for each step on a vector of `length` coordinates, best of `repeats`."""

    def __init__(self, length: int, repeats: int) -> None:
        contribution = vectors.contribution(length, 24)
        words = np.zeros(contribution.layout.length, np.uint32)
        sites = {n: vectors.Site(n, contribution) for n in DIRECT}
        found = in_turns(
            {
                "fold": vectors.fold(contribution.layout),
                "encode": sites[2].encode,
                "pack": lambda: pack(words, contribution.layout),
                "ten masks": lambda: apply_masks(words, [Mask(bytes(32))] * 10),
                **{str(n): site.mask for n, site in sites.items()},
            },
            repeats=repeats,
        )
        self.fold = found["fold"].best
        self.encode_and_pack = found["encode"].best + found["pack"].best
        self.mask = found["ten masks"].best / 10
        self._direct = {n: found[str(n)].best for n in DIRECT}

    def masks(self, partners: int) -> float:
        """Of a site with so many partners, and its own."""
        if partners <= DIRECT[-1]:
            return float(np.interp(partners, DIRECT, [self._direct[n] for n in DIRECT]))
        slope = (self._direct[49] - self._direct[9]) / (49 - 9)
        return self._direct[49] + slope * (partners - 49)


def cost(n: int, lost: int, long: LongVectors) -> Row:
    """One point of the curve."""
    game = Game(n, vectors.contribution(64, 24).layout, lost=lost)
    game.play()
    neighbours, threshold = ring(n)
    graph = Topology(game.machine.session, game.names)
    gone = set(game.names[n - lost :])
    pairs = sum(len(set(graph.partners(site)) - gone) for site in gone)
    return {
        "sites": n,
        "neighbours": neighbours,
        "threshold": threshold,
        "lost": lost,
        "masks_to_remove": n - lost + pairs,
        "site_vector_s": long.encode_and_pack + long.masks(neighbours),
        "site_messages_s": game.site.seconds,
        "coordinator_fold_s": (n - lost) * long.fold,
        "coordinator_unmask_s": (n - lost + pairs) * long.mask,
        "coordinator_messages_s": game.coordinator.seconds,
        "message_bytes_up": game.bytes_up,
        "message_bytes_down": game.bytes_down,
    }


def table(rows: list[Row], console: Console) -> None:
    """Milliseconds and bytes for each number of sites."""
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    heads = ("n", "k", "lost", "site ms", "msgs", "coord. ms", "fold", "unmask", "msgs", "kB up")
    for head in (*heads, "down"):
        grid.add_column(head, justify="right")
    for r in rows:
        site = [r["site_vector_s"] + r["site_messages_s"], r["site_messages_s"]]
        parts = [r[f"coordinator_{part}_s"] for part in ("fold", "unmask", "messages")]
        times = [f"{1000 * s:,.0f}" for s in (*site, sum(parts), *parts)]
        sizes = [f"{r[f'message_bytes_{way}'] / 1000:.1f}" for way in ("up", "down")]
        grid.add_row(*(str(r[key]) for key in ("sites", "neighbours", "lost")), *times, *sizes)
    console.print(grid)


def chart(rows: list[Row], path: Path) -> None:
    """Seconds over sites, one line for each part, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    n = [r["sites"] for r in rows]
    for key, (label, colour) in PARTS.items():
        style = "o-" if key.startswith("site") else "s--"
        axes.plot(n, [r[key] for r in rows], style, color=colour, label=label, markersize=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(n, [str(x) for x in n])
    axes.minorticks_off()
    axes.set_xlabel("sites")
    axes.set_ylabel("seconds a round, one thread")
    axes.set_title("Cost of a masked sum by number of sites", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main(
    length: Annotated[int, typer.Option(help="Coordinates of the update.")] = 11_000_000,
    sites: Annotated[str, typer.Option(help="Comma-separated.")] = "3,5,10,20,50,100,200,500,1000",
    lost: Annotated[float, typer.Option(help="Share of sites lost after masking.")] = 0.05,
    repeats: Annotated[int, typer.Option(help="Turns of each step on long vectors.")] = 5,
    results: Annotated[Path, typer.Option(help="Folder for secagg-curve.json and .png.")] = RESULTS,
) -> None:
    """Measure and draw the cost of a round against the number of sites."""
    progress = Console(stderr=True)
    progress.print("long vectors", style="dim")
    long = LongVectors(length, repeats)
    rows = []
    for n in map(int, sites.split(",")):
        progress.print(f"{n} sites", style="dim", highlight=False)
        rows.append(cost(n, int(lost * n), long))
    with Peers(Path("none")) as nobody:
        result = {"machine": machine(nobody), "length": length, "lost": lost, "rows": rows}
    results.mkdir(parents=True, exist_ok=True)
    (results / "secagg-curve.json").write_text(json.dumps(result, indent=2) + "\n")
    chart(rows, results / "secagg-curve.png")
    table(rows, Console())


if __name__ == "__main__":
    typer.run(main)
