"""The roles as processes with the toy protocol, for tests that kill them.

    python -m tests.inference_service.roles model FOLDER LISTEN DEALER VERSION [STOP_AT]
    python -m tests.inference_service.roles dealer FOLDER LISTEN [STOP_AT]
    python -m tests.inference_service.roles ask FOLDER [STOP_AT]

STOP_AT: a file to make at the second step, and then to wait for the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from primia.infer.data_owner import DataOwner
from primia.infer.serving import serve_dealer, serve_model
from primia.logs import configure
from tests.inference_service import toy


class Stopping(toy.Toy):
    """Waits for ever once `file` was made."""

    def __init__(self, party: str, file: Path | None) -> None:
        super().__init__(lambda p, step: self._stop() if (p, step) == (party, 1) else None)
        self._file = file
        self._deals = party == "dealer"

    def _stop(self) -> None:
        if self._file is not None:
            self._file.touch()
            time.sleep(600)

    def deal(self, *args: object) -> Iterator[bytes]:
        for number, piece in enumerate(super().deal(*args)):  # type: ignore[arg-type]
            if self._deals and number == 1:
                self._stop()
            yield piece


def main(role: str, folder: str, *rest: str) -> None:
    configure(json=True)
    home = Path(folder)
    if role == "model":
        listen, dealer, version, *stop = rest
        engine = Stopping("model", Path(stop[0]) if stop else None)
        # The same bytes of which `World` takes the digest.
        (home / "model.file").write_bytes(b"".join(w.tobytes() for w in toy.weights().values()))

        def load(_: Path) -> object:
            return toy.program(version=version), toy.weights()

        serve_model(home, home / "model.file", listen, dealer, engine, load)  # type: ignore[arg-type]
    elif role == "dealer":
        listen, *stop = rest
        serve_dealer(home, listen, Stopping("dealer", Path(stop[0]) if stop else None))
    else:
        engine = Stopping("data", Path(rest[0]) if rest else None)
        films = toy.films()
        with DataOwner(home, engine) as owner:
            found = [int(v) for v in owner.ask(films, 1)[0]]  # type: ignore[attr-defined]
        assert found == toy.expected(films)


if __name__ == "__main__":
    main(*sys.argv[1:])
