"""A real worker that writes down what it streams: session, first byte, SHA-256 of the whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import primia.wire.client as client
from worker.cli import main

_frames = client._frames


def _recorded(header: Any, view: memoryview, *rest: Any) -> Iterator[bytes]:
    entry = {
        "session": header.key.session.hex(),
        "round": header.key.round.number,
        "offset": header.offset,
        "sha256": hashlib.sha256(view).hexdigest(),
        "announced": header.sha256.hex(),
    }
    with Path(os.environ["PRIMIA_TEST_UPLOADS"]).open("a") as file:
        file.write(json.dumps(entry) + "\n")
    return _frames(header, view, *rest)


client._frames = _recorded

if __name__ == "__main__":
    main()
