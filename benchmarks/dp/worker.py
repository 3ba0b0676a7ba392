"""One measurement in a process of its own; prints its result as one line of JSON.

    python -m benchmarks.dp.worker time|memory --case NAME --engine NAME --budget SECONDS

time: the engine's error against the loop, then plain and private steps in turns, so that each
ratio comes from the same seconds. CPU time of one thread, which hardly depends on what else the
machine does; on a GPU, the time between two events.
memory: steps of one kind only, and the peak they reached.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from benchmarks.dp.cases import CASES, Batch, Case, cross_entropy
from benchmarks.dp.engines import (
    ENGINES,
    Engine,
    Step,
    Terms,
    Unsupported,
    loop,
    plain,
    total_norm,
)

CHECKED_IMAGES = 4
MOST_PAIRS = 30
MEMORY_STEPS = 4
"""The second step already holds all that training ever holds; two more for the allocator."""

Result = dict[str, object]


def errors_against_loop(name: str, case: Case, device: str) -> Result:
    """Largest error of the clipped sum without noise, relative to the sum's largest entry.

    error: against the loop in float32; error_float64: against the loop in float64. On large images
    the two loops differ themselves, where rounding turns a ReLU or a maximum the other way.
    The clip norm is the median of the images' norms: two of the four are clipped.
    Raises Unsupported when the engine leaves a parameter out.
    """
    model = case.network().to(device)
    batches = case.batches(images=CHECKED_IMAGES, device=device)
    if case.losses is cross_entropy:
        # One class only: opposite ones cancel, and near zero any rounding looks large.
        batches = [(inputs, torch.zeros_like(targets)) for inputs, targets in batches]
    terms = Terms(
        logical=CHECKED_IMAGES,
        clip_norm=statistics.median(_norms(model, case, batches)),
        noise_multiplier=0.0,
    )
    double = [(x.double(), y.double() if y.is_floating_point() else y) for x, y in batches]
    exact = _gradient(loop, copy.deepcopy(model).double(), case, terms, double)
    reference = _gradient(loop, copy.deepcopy(model), case, terms, batches)
    found = _gradient(ENGINES[name], model, case, terms, batches)
    return {
        "error": _largest(found - reference, reference),
        "error_float64": _largest(found - exact, exact),
    }


def _gradient(
    engine: Engine, model: nn.Module, case: Case, terms: Terms, batches: Sequence[Batch]
) -> torch.Tensor:
    """What one step of the engine applied, float64 (parameters,)."""
    engine(model, case.losses, terms)(batches)
    parts = {name: p.grad for name, p in model.named_parameters()}
    left_out = [name for name, part in parts.items() if part is None]
    if left_out:
        raise Unsupported(f"never trains {', '.join(left_out)}")
    return torch.cat([part.flatten().double() for part in parts.values() if part is not None])


def _largest(difference: torch.Tensor, reference: torch.Tensor) -> float:
    return float(difference.abs().max() / reference.abs().max())


def _norms(model: nn.Module, case: Case, batches: Sequence[Batch]) -> list[float]:
    norms = []
    for inputs, targets in batches:
        for i in range(len(inputs)):
            loss = case.losses(model(inputs[i : i + 1]), targets[i : i + 1]).sum()
            norms.append(float(total_norm(torch.autograd.grad(loss, list(model.parameters())))))
    return norms


def measure_time(name: str, case: Case, device: str, budget_s: float) -> Result:
    """Pairs of a plain and a private step until the budget is used up, at least one."""
    errors = {} if name == "plain" else errors_against_loop(name, case, device)
    terms = Terms(logical=case.logical)
    batches = case.batches(images=case.logical, device=device)
    plain_step = plain(case.network().to(device), case.losses, terms)
    private_step = ENGINES[name](case.network().to(device), case.losses, terms)
    plain_step(batches), private_step(batches)  # the first of each prepares kernels and buffers
    pairs: list[tuple[float, float]] = []
    end = time.monotonic() + budget_s
    while not pairs or (time.monotonic() < end and len(pairs) < MOST_PAIRS):
        pairs.append((seconds(plain_step, batches, device), seconds(private_step, batches, device)))
    return {**errors, **summary(pairs)}


def seconds(step: Step, batches: Sequence[Batch], device: str) -> float:
    """CPU time of one step, or on a GPU the time it took there."""
    if device == "cpu":
        start = time.process_time()
        step(batches)
        return time.process_time() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    step(batches)
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1000


def summary(pairs: Sequence[tuple[float, float]]) -> Result:
    """Medians of both kinds in seconds, and median and quartiles of the ratio of each pair."""
    ratios = [private / plain for plain, private in pairs]
    at_least_two = ratios if len(ratios) > 1 else ratios * 2
    low, middle, high = statistics.quantiles(at_least_two, n=4, method="inclusive")
    return {
        "pairs": len(pairs),
        "plain_s": statistics.median(plain for plain, _ in pairs),
        "private_s": statistics.median(private for _, private in pairs),
        "time_ratio": middle,
        "time_quartiles": [low, high],
    }


def measure_memory(name: str, case: Case, device: str, budget_s: float) -> Result:
    """Bytes held before the first step (libraries, model, data) and at the peak."""
    batches = case.batches(images=case.logical, device=device)
    step = ENGINES[name](case.network().to(device), case.losses, Terms(logical=case.logical))
    held = _reset_peak(device)
    end = time.monotonic() + budget_s
    for done in range(MEMORY_STEPS):
        if done >= 2 and time.monotonic() > end:
            break
        step(batches)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else _status_bytes("VmHWM")
    return {"held_bytes": held, "peak_bytes": peak}


def _reset_peak(device: str) -> int:
    """Forget peaks of importing and building; returns what is held now, in bytes."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with contextlib.suppress(OSError):  # proc(5); where it is refused the peak counts from start
        Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def _status_bytes(key: str) -> int:
    """From proc(5) and not getrusage(2), whose maximum a process inherits from its parent."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Exit status 0 whenever there is a result or a reason why there is none."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("time", "memory"))
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--budget", type=float, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, for the check as for the clock
    measure = measure_time if given.what == "time" else measure_memory
    try:
        with contextlib.redirect_stdout(sys.stderr):  # some engines talk
            result = measure(given.engine, CASES[given.case], given.device, given.budget)
    except Unsupported as err:
        result = {"missing": str(err)}
    except torch.OutOfMemoryError:
        result = {"missing": "out of memory"}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
