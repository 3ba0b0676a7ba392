"""The data owner of the benchmark: asks one film some times and says what each time took.

python -m benchmarks.inference.asking STATE FILM TIMES    (started by `ours`)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.inference.loopback import carried, peak_mb
from primia.infer.data_owner import DataOwner
from primia.infer.engine import REAL
from primia.infer.films import read


def main() -> None:
    state, film, times = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    asked = []
    with DataOwner(state, REAL) as owner:
        encoded = read([film], owner.program)
        owner.given(heavy=True)  # once for a model version: not a film's
        began, before = time.perf_counter(), carried()
        owner.stock(times, 1)
        dealt = {"seconds": (time.perf_counter() - began) / times,
                 "bytes": (carried() - before) / times}  # fmt: skip
        for _ in range(times):
            before, steps = carried(), owner.costs.online.messages
            cpu, began = time.process_time(), time.perf_counter()
            (found,) = owner.ask(encoded, 1)
            asked.append(
                {"seconds": time.perf_counter() - began, "bytes": carried() - before,
                 "cpu_seconds": time.process_time() - cpu,
                 "steps": owner.costs.online.messages - steps, "logits": found.values.tolist()}
            )  # fmt: skip
    print(json.dumps({"dealt": dealt, "asked": asked, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
