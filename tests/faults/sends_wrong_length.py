"""A real worker whose vectors have another length than the plan says."""

from __future__ import annotations

import os
from typing import Any

from primia.wire.client import FederationClient
from worker.cli import main

_upload = FederationClient.upload


def _wrong(self: FederationClient, key: Any, data: Any, **rest: Any) -> None:
    change = int(os.environ["PRIMIA_TEST_BYTES"])
    data = bytes(data)
    _upload(self, key, data[:change] if change < 0 else data + bytes(change), **rest)


FederationClient.upload = _wrong  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
