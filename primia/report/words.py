"""Words and figures as a reader sees them, the same in the page, the card and the terminal.

Text from outside (a site's reason, a label) passes `clean` before it is shown anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from primia.report.quality import Estimate

MAX_TEXT = 300  # characters of one reason; a hospital writes it, so it has a limit
MAX_PROSE = 2000  # of an answer or a limit, which may be a paragraph
NONE = "–"

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def clean(text: str, most: int = MAX_TEXT) -> str:
    """`text` fit for a page and a terminal: one line, bounded, nothing that steers the display.

    Control, bidirectional and other unprintable characters become a replacement mark, so that a
    site's reason can neither move a cursor nor reverse the words around it.
    """
    printable = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return printable if len(printable) <= most else printable[: most - 1] + "…"


def look_up(plan: Mapping[str, Any], dotted: str) -> Any:
    """The value at `dotted` in the plan, or None."""
    value: Any = plan
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def epsilon_text(epsilon: float | None) -> str:
    """ε with two decimals, rounded up: a privacy loss is never shown smaller than it is."""
    if epsilon is None:
        return NONE
    # 1e-9 forgives the last bit of a product, so that 8.0 does not become 8.01.
    return f"{math.ceil(epsilon * 100 - 1e-9) / 100:.2f}" if math.isfinite(epsilon) else "∞"


def delta_text(delta: float | None) -> str:
    """δ as a person writes it: 1×10⁻⁴."""
    if delta is None:
        return NONE
    mantissa, exponent = f"{delta:.6e}".split("e")
    return f"{float(mantissa):g}×10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def number_text(value: float | None, digits: int = 3) -> str:
    """A figure with `digits` decimals, or a dash."""
    return NONE if value is None else f"{value:.{digits}f}"


def duration_text(seconds: float | None) -> str:
    """A time span in the two units that matter."""
    if seconds is None:
        return NONE
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def time_text(seconds: float | None) -> str:
    """Seconds since 1970 as a date and time in UTC; a dash where no calendar has it."""
    if seconds is None or not 0 <= seconds < 1e11:
        return NONE
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def bound_text(share: float) -> str:
    """A probability that bounds a risk, in percent, rounded up to a tenth."""
    return f"{min(100.0, math.ceil(share * 1000 - 1e-9) / 10):.1f} %"


def estimate_parts(estimate: Estimate, *, sign: bool = False, digits: int = 3) -> tuple[str, str]:
    """A figure, and its 95 % interval where there is one."""
    if estimate.value is None:
        return NONE, ""
    form = f"{'+' if sign else ''}.{digits}f"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}", ""
    return f"{estimate.value:{form}}", f"{estimate.low:{form}} to {estimate.high:{form}}"


def estimate_text(estimate: Estimate, *, sign: bool = False, digits: int = 3) -> str:
    """A figure with its 95 % interval behind it."""
    value, interval = estimate_parts(estimate, sign=sign, digits=digits)
    return f"{value} ({interval})" if interval else value


def names_text(names: Sequence[str]) -> str:
    """Names from outside in a row, at most a dozen of them."""
    shown = ", ".join(clean(n) for n in names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or NONE


def shortened(name: str, most: int = 24) -> str:
    """A name from outside as it fits into a figure."""
    return clean(name, most)
