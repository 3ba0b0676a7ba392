"""The annex to a hospital's data protection impact assessment, from plan and site file."""

from primia.annex.content import annex
from primia.annex.document import Document
from primia.annex.forms import to_html, to_markdown

__all__ = ["Document", "annex", "to_html", "to_markdown"]
