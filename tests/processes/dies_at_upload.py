"""A real worker that is killed by SIGKILL between its keys and its upload, in round 2."""

from __future__ import annotations

import os
import signal
from typing import Any

from primia.wire.client import FederationClient
from worker.cli import main

_upload = FederationClient.upload


def _die_in_round_two(self: FederationClient, key: Any, *args: Any, **kwargs: Any) -> None:
    if key.round.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    _upload(self, key, *args, **kwargs)


FederationClient.upload = _die_in_round_two  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
