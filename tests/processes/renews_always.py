"""Both daemons as they are, but that every certificate is always due for renewal."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any


def _always(*_: Any) -> bool:
    return True


def main() -> None:
    """`start` is the coordinator's command, `run` the worker's."""
    if sys.argv[1] == "start":
        from coordinator import upkeep
        from coordinator.cli import main as run

        upkeep.LOOK_S = 1.0
        upkeep.renewal_due = _always
    else:
        from worker import renewal
        from worker.cli import main as run

        renewal.RETRY = timedelta(seconds=1)
        renewal.renewal_due = _always
    run()


if __name__ == "__main__":
    main()
