"""Per-unit gradient norms and weighted gradient sums from one backward pass."""

from primia.learning.engine.attach import RULES, Attached
from primia.learning.engine.book import Book
from primia.learning.engine.choice import Choice, Method, table
from primia.learning.engine.generic import by_vmap
from primia.learning.engine.layer import Layer, Rule
from primia.learning.engine.rows import Rows

__all__ = [
    "RULES",
    "Attached",
    "Book",
    "Choice",
    "Layer",
    "Method",
    "Rows",
    "Rule",
    "by_vmap",
    "table",
]
