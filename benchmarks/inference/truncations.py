"""A thousand million truncations by the protocol's own code, each checked: how many fail?

Run: make inference-truncations [BENCH_ARGS="--count 1e9 --seed 1"]. Both parties and the dealer are
in this process; what they compute is what they compute over a wire. A truncation fails when it is
off by more than one unit. The values: a third over the whole range of 62 bits, a third within 2^20
of its ends, a third as in a network (up to 2^40). The figures go to
benchmarks/results/inference-truncations.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from primia.inference.correlations import Corrections, DataSource, Dealer, ModelSource
from primia.inference.ops.opening import deal_truncate, truncate

LIMIT = 1 << 62
BATCH = 1 << 18  # fits in the cache: half the time of 2^22
SHIFTS = (16, 20, 28, 32)
RESULT = Path(__file__).parents[1] / "results" / "inference-truncations.json"


def values_of(draw: np.random.Generator, count: int) -> Any:
    """The mixture above, with the ends themselves in every batch."""
    third = count // 3
    near = draw.integers(0, 1 << 20, third)
    near = np.where(draw.integers(0, 2, third) == 1, LIMIT - 1 - near, near - LIMIT)
    wide = draw.integers(-LIMIT, LIMIT, third)
    usual = draw.integers(-(1 << 40), 1 << 40, count - 2 * third)
    found = np.concatenate([near, wide, usual])
    found[:4] = (LIMIT - 1, -LIMIT, 0, -1)
    return found


def failures(values: Any, shift: int, seeds: tuple[bytes, bytes, bytes]) -> int:
    """How many of these truncations are off by more than one unit."""
    dealer = Dealer(seeds[0], seeds[1])
    deal_truncate(dealer, "t", values.shape, shift)
    corrections = Corrections(dealer.corrections())
    share = DataSource(seeds[2]).mask("share", values.shape)
    whole = values.view(np.uint64)
    sides: list[Generator[Any, Any, list[Any]]] = [
        truncate(DataSource(seeds[0]), [("t", whole - share, shift)]),
        truncate(ModelSource(seeds[1], corrections), [("t", share, shift)]),
    ]
    messages = [bytes(next(side).send) for side in sides]
    ends: list[Any] = []
    for side, message in zip(sides, reversed(messages), strict=True):
        try:
            side.send(message)
        except StopIteration as end:
            ends.append(end.value[0])
    error = (ends[0] + ends[1]).view(np.int64) - (values >> shift)
    return int(((error < 0) | (error > 1)).sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    draw = np.random.default_rng(args.seed)  # of the test's values and seeds; no secret is made
    done = failed = 0
    started = time.process_time()
    while done < args.count:
        values = values_of(draw, BATCH)
        shift = SHIFTS[done // BATCH % len(SHIFTS)]
        failed += failures(values, shift, (draw.bytes(32), draw.bytes(32), draw.bytes(32)))
        done += BATCH
        if done // BATCH % 400 == 0:
            print(f"{done:,} truncations, {failed} failed", file=sys.stderr, flush=True)
    result = {
        "truncations": done,
        "failed": failed,
        "shifts": SHIFTS,
        "seed": args.seed,
        "cpu_seconds": round(time.process_time() - started, 1),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{done:,} truncations: {failed} failed, {result['cpu_seconds']} s of one core")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
