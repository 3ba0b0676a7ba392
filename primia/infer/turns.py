"""Whose prediction runs now."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from primia.errors import TooManyCalls
from primia.types import SiteId

AT_ONCE = 2  # predictions; each takes the memory of one, and the cores are shared
QUEUE_S = 60.0  # another one waits so long for its turn


class Turns:
    """A few predictions at once, and one of each data owner: nobody holds the turns of others."""

    def __init__(self) -> None:
        self._running: set[SiteId] = set()
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, site: SiteId) -> Iterator[None]:
        """Wait for it. Raises TooManyCalls when it does not come in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_free_for(site), QUEUE_S):
                raise TooManyCalls(
                    f"the model owner answers {AT_ONCE} predictions at once, one of each data "
                    "owner, and is busy; ask later"
                )
            self._running.add(site)
        try:
            yield
        finally:
            with self._changed:
                self._running.discard(site)
                self._changed.notify_all()

    def _is_free_for(self, site: SiteId) -> bool:
        return site not in self._running and len(self._running) < AT_ONCE
