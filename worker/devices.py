"""Where this site trains, from `compute:` of the site file and the GPUs that are here."""

from __future__ import annotations

import torch

from primia.config.site import Compute
from primia.errors import StateError


def devices_of(compute: Compute) -> tuple[str, ...]:
    """Where each process trains. Raises StateError when the GPUs asked for are not here."""
    wanted, processes, here = compute.device, compute.processes, torch.cuda.device_count()
    if wanted == "cpu" or (wanted == "auto" and not here):
        return ("cpu",) * processes
    first = int(wanted.partition(":")[2] or 0)
    if first + processes > here:
        raise StateError(
            f"compute: device {wanted} with {processes} process(es) needs GPUs {first} to "
            f"{first + processes - 1}, and {here} are here; ask for fewer, or use cpu"
        )
    return tuple(f"cuda:{first + i}" for i in range(processes))
