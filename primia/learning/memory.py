"""How many rows go through the model together: as many as memory holds."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

from primia.learning.engine import Attached, Method
from primia.learning.probe import made_up, passed

_MOST = 256  # rows; larger physical batches are no faster, on a CPU or on a GPU
_SHARE = 0.25
"""Of the memory that is free, for one physical batch: other processes use the rest, and what the
layers allocate on the way is not counted."""
_ROWS = 3


def rows_that_fit(attached: Attached, inputs: torch.Tensor) -> int:
    """A physical batch size for rows like `inputs`, (rows, ...): a power of two, at most 256.

    Counts what the forward pass saves for made-up rows, as much again for gradients, and the
    per-sample gradients of the layers that hold them.
    """
    free = free_bytes(inputs.device)
    fit = max(1, int(free * _SHARE / bytes_per_row(attached, inputs)))
    return min(_MOST, 1 << (fit.bit_length() - 1))


def bytes_per_row(attached: Attached, inputs: torch.Tensor) -> int:
    """Memory that one more row takes in a private step."""
    saved: dict[int, int] = {}
    weights = {p.data_ptr() for p in attached.model.parameters()}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with hooks, passed(attached, made_up(inputs, _ROWS)):
        pass
    held = sum(
        4 * layer.choice.weights
        for layer in attached.layers
        if layer.choice is not None and layer.choice.method in {Method.PER_SAMPLE, Method.VMAP}
    )
    return max(1, 2 * sum(saved.values()) // _ROWS + held)


def free_bytes(device: torch.device) -> int:
    """Memory that this process may still take: of the GPU, or of the machine or its container."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{n}" for n in ("max", "current"))
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    allowed, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if allowed != resource.RLIM_INFINITY:  # the site's own cap on this process
        status = Path("/proc/self/status").read_text().splitlines()
        taken = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
        free = min(free, allowed - taken)
    return max(0, free)
