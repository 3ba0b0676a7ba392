"""One small change that breaks the product."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """`before` occurs once in `file`; with `after` in its place the product is broken.

    suite: the tests that ought to notice.
    """

    name: str
    file: str
    before: str
    after: str
    suite: tuple[str, ...] = ("tests/secagg", "tests/protocol")

    def applied_to(self, source: str) -> str:
        """The changed source. Raises ValueError unless `before` occurs exactly once."""
        if source.count(self.before) != 1:
            raise ValueError(
                f"{self.name}: {self.before!r} occurs {source.count(self.before)} times in "
                f"{self.file}; bring the catalogue up to date"
            )
        return source.replace(self.before, self.after)
