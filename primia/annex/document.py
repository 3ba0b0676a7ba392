"""A document as data: sections of paragraphs and tables, whatever form it is written in."""

from __future__ import annotations

from dataclasses import dataclass

BLANK = ""
"""A cell that people of the hospital fill in."""


@dataclass(frozen=True)
class Table:
    """head: empty for a table of name and value."""

    rows: tuple[tuple[str, ...], ...]
    head: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading, then paragraphs and tables in order. alarm: a reader must not miss it."""

    heading: str
    blocks: tuple[str | Table, ...]
    alarm: bool = False


@dataclass(frozen=True)
class Document:
    """Texts are plain: whoever writes a form escapes them."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]
