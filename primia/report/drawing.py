"""How the report's figures look, and how they become inline SVG text.

Drawn with matplotlib's object interface: no global figure list, no display, no font is fetched.
Text stays text (`svg.fonttype: none`), so the page's own font and a screen reader reach it.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any common colour vision, plus neutral greys.
BLUE, ORANGE, GREEN, GREY, INK = "#0072b2", "#d55e00", "#00785a", "#8a939c", "#1f2933"
DOTS = (0, (2, 2))

STYLE: dict[Any, Any] = {  # matplotlib's stubs list every key, and the list moves
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label with a dollar sign is a label, not a formula
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e8ec",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": "#4b5660",
    "ytick.color": "#4b5660",
    "legend.framealpha": 0.85,
    "legend.edgecolor": "white",
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}


def svg_of(figure: Figure, prefix: str) -> str:
    """The figure as an `<svg>` element whose ids all begin with `prefix`.

    One page holds several figures, and matplotlib gives each of them a `figure_1`.
    """
    out = io.StringIO()
    # A fixed salt and no date: the same record gives the same page, byte for byte.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": prefix}), warnings.catch_warnings():
        # The reader's browser draws the text; that no font here has a glyph matters to nobody.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]  # without the XML prolog and its address of a DTD
    return re.sub(r"<[^<>]+>", lambda tag: _prefixed(tag[0], prefix), svg)


def _prefixed(tag: str, prefix: str) -> str:
    for reference in (' id="', "url(#", 'href="#'):
        tag = tag.replace(reference, f"{reference}{prefix}-")
    return tag
