"""A `Document` as one HTML file for print, or as Markdown; every text is escaped."""

from __future__ import annotations

import html
import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from primia.annex.document import Document, Section, Table


def to_html(document: Document) -> str:
    """One self-contained file: no script, nothing fetched, fit for A4."""
    environment = Environment(
        loader=PackageLoader("primia.annex", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clean"] = _clean
    return environment.get_template("annex.html").render(document=document)


def to_markdown(document: Document) -> str:
    """For those who paste it into an assessment of their own."""
    parts = [f"# {_inline(document.title)}", _inline(document.subtitle)]
    for section in document.sections:
        parts += [f"## {_inline(section.heading)}", *_blocks(section)]
    return "\n\n".join(parts) + "\n"


def _blocks(section: Section) -> list[str]:
    mark = "> **Attention.** " if section.alarm else ""
    return [
        _table(block) if isinstance(block, Table) else mark + _inline(block)
        for block in section.blocks
    ]


def _table(table: Table) -> str:
    width = len(table.rows[0])
    head = table.head or ("",) * width
    rows = [head, ("---",) * width, *table.rows]
    return "\n".join(
        "| " + " | ".join(cell if cell == "---" else _inline(cell) for cell in row) + " |"
        for row in rows
    )


def _inline(text: str) -> str:
    """One line whose characters mean themselves, in a table's cell too."""
    escaped = html.escape(_clean(text), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", escaped)


def _clean(text: str) -> str:
    """Without control and other unprintable characters, on one line."""
    return "".join(c if c.isprintable() else " " for c in text)
