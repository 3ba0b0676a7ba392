"""What an attack or an audit found, in one form: terminals, files and the report show any of them.

A finding with pictures of a hospital's own films is `local`: it is for that hospital's eyes, and
nothing but its figures (`without_pictures`) goes into a file that leaves.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from primia.documents import parse
from primia.errors import DataError

SCHEMA = "primia-finding/1"
MAX_BYTES = 16 << 20  # of one file
MAX_PIXELS = 8192  # a side of a picture
_LAST = 1e11  # seconds since 1970: in the year 5138
_PNG = b"\x89PNG\r\n\x1a\n"

Figure = float | int | str | bool | None
"""One figure of a finding; a number that could not be measured is None, never NaN."""


class Verdict(StrEnum):
    """What a finding says of the protection it tried. NOT_REFUTED is not a proof."""

    NOT_REFUTED = "not refuted"  # an audit found nothing beyond the claim
    REFUTED = "refuted"  # an audit measured more than the claim
    HELD = "held"  # an attack did no better than chance against the plan's protection
    FELL = "fell"  # an attack succeeded against the plan's protection
    TOLD = "told"  # a figure to know; nothing was tried


@dataclass(frozen=True)
class Picture:
    """One panel. png: bytes of a PNG; words: what it shows, for those who cannot see it."""

    title: str
    words: str
    png: bytes

    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Table:
    """Rows of text under column names, set as they are."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One attack or audit, done once.

    command: as typed, "attack invert"; title and question: one line each; answer: the verdict in a
    sentence with its figures; limits: what this cannot say. figures: for scripts, by name.
    local: holds something of a hospital's own films. seconds: it took; made_at: since 1970.
    plan: digest of the plan that it tried, as it is signed; empty where there is none, as for a
        ledger, which knows several, and in older files.
    """

    command: str
    title: str
    question: str
    verdict: Verdict
    answer: str
    limits: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    local: bool = False
    seconds: float = 0.0
    made_at: float = 0.0
    plan: str = ""

    def without_pictures(self) -> Self:
        """The same, fit to leave the hospital: figures and words alone."""
        return replace(self, pictures=(), local=False)


def to_json(finding: Finding) -> str:
    """One JSON document. Raises DataError for a figure that is not finite."""
    data = {"schema": SCHEMA, **asdict(finding), "verdict": finding.verdict.value}
    data["pictures"] = [
        {"title": p.title, "words": p.words, "png": base64.b64encode(p.png).decode("ascii")}
        for p in finding.pictures
    ]
    try:
        return json.dumps(data, indent=2, allow_nan=False)
    except ValueError as err:
        raise DataError(
            f"{finding.command}: a figure is not finite ({err}); report this, nothing was written"
        ) from err


def from_json(text: str) -> Finding:
    """The inverse of `to_json`. Raises DataError for anything that is not a finding."""
    try:
        data = parse(text, MAX_BYTES)
        if data.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        return _finding(data)
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise DataError(
            f"not a finding of `primia attack` or `primia audit`: {err}; write it again with --out"
        ) from err


def _finding(data: dict[str, Any]) -> Finding:
    for name in ("command", "title", "question", "answer", "limits"):
        if not isinstance(data[name], str):
            raise ValueError(f"{name} is not text")
    for name in ("seconds", "made_at"):
        if type(data[name]) not in (int, float) or not 0 <= data[name] <= _LAST:
            raise ValueError(f"{name} is not a time")
    plan = data.get("plan", "")
    if not isinstance(plan, str) or not re.fullmatch("([0-9a-f]{64})?", plan):
        raise ValueError("plan is not a digest")
    if not isinstance(data["local"], bool):
        raise ValueError("local is not true or false")
    return Finding(
        **{
            **data,
            "verdict": Verdict(data["verdict"]),
            "figures": _figures(data["figures"]),
            "tables": tuple(_table(t) for t in data["tables"]),
            "pictures": tuple(_picture(p) for p in data["pictures"]),
        }
    )


def _figures(data: dict[str, Any]) -> dict[str, Figure]:
    for name, value in data.items():
        if value is not None and not isinstance(value, float | int | str | bool):
            raise ValueError(f"figures.{name} is not a figure")
    return dict(data)


def _table(data: dict[str, Any]) -> Table:
    columns, rows = _texts(data["columns"]), tuple(_texts(r) for r in data["rows"])
    if any(len(row) != len(columns) for row in rows):
        raise ValueError("a table has a row of another length")
    return Table(columns, rows)


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise ValueError("a table holds something that is not text")
    return tuple(values)


def _picture(data: dict[str, Any]) -> Picture:
    try:
        png = base64.b64decode(data["png"], validate=True)
    except binascii.Error as err:
        raise ValueError("a picture is not base64") from err
    if not png.startswith(_PNG):
        raise ValueError("a picture is not a PNG")
    # The first chunk holds width and height; a browser would unpack all of them.
    if any(int.from_bytes(png[i : i + 4], "big") > MAX_PIXELS for i in (16, 20)):
        raise ValueError(f"a picture has more than {MAX_PIXELS} pixels a side")
    title, words = _texts([data["title"], data["words"]])
    return Picture(title, words, png)
