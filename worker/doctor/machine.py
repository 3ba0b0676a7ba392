"""The machine: versions, device, memory, room on the disk."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from primia import __version__
from primia.config.site import Compute
from primia.errors import StateError
from worker.doctor.visit import Seen

LEAST_ROOM = 256 << 20
COMFORT = 4
MODELS = 6
"""Room for so many models: the update of this round and the last, databases and their logs."""

LEAST_MEMORY = 1 << 30


def software() -> Seen[None]:
    """Python, primia and torch. Raises StateError when torch does not load."""
    try:
        import torch
    except (ImportError, OSError) as err:
        raise StateError(
            f"torch does not load ({err}); install primia again, as docs/operations.md says"
        ) from err
    return Seen(None, f"primia {__version__}, Python {platform.python_version()}, "
                      f"torch {torch.__version__}")  # fmt: skip


def device(compute: Compute) -> Seen[tuple[str, ...]]:
    """Where training will run. Raises StateError for a GPU that is not here, or does not work."""
    import torch

    from worker.devices import devices_of

    found = devices_of(compute)
    cores = len(os.sched_getaffinity(0))
    if found[0] == "cpu":
        threads = compute.threads * compute.processes
        concern = ""
        if threads > cores:
            concern = (
                f"the site file asks for {threads} threads and this process may use {cores} cores, "
                "which makes training slower, not faster; lower compute.threads or processes"
            )
        return Seen(found, f"CPU, {threads} of {cores} cores", concern)
    said = []
    for name in found:
        try:
            free, total = torch.cuda.mem_get_info(name)
        except RuntimeError as err:
            raise StateError(
                f"{name} is there and does not work ({str(err).splitlines()[0]}); mend its driver, "
                "or set compute.device: cpu"
            ) from err
        said.append(
            f"{name} {torch.cuda.get_device_name(name)}, {free / 2**30:.1f} of "
            f"{total / 2**30:.1f} GiB free"
        )
    return Seen(found, "; ".join(said))


def memory() -> Seen[None]:
    """Memory that is free. Raises StateError when it is too little to load a model and films."""
    import torch

    from primia.learning.memory import free_bytes

    free = free_bytes(torch.device("cpu"))
    if free < LEAST_MEMORY:
        raise StateError(
            f"{free / 2**20:.0f} MiB of memory are free, and training takes {_gib(LEAST_MEMORY)} "
            "or more; stop other programs, or raise the limit of the service or container"
        )
    return Seen(None, f"{_gib(free)} free")


def disk(folder: Path, model_bytes: int | None) -> Seen[None]:
    """Room and rights in a folder, which may be missing yet, for books, models and updates.

    Raises StateError.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    needed = max(LEAST_ROOM, MODELS * (model_bytes or 0))
    if found.f_flag & os.ST_RDONLY or not os.access(folder, os.W_OK):
        raise StateError(
            f"{folder} cannot be written; check its owner and whether the disk is mounted read-only"
        )
    if free < needed or (found.f_files and not found.f_favail):
        what = _gib(free) if free < needed else "no free inode"
        raise StateError(
            f"{folder}: {what} left on the disk, and books, models and updates need "
            f"{_gib(needed)}; free space, or move the folder"
        )
    concern = ""
    if free < COMFORT * needed:
        concern = (
            f"{folder}: only {_gib(free)} left on the disk; more than {_gib(COMFORT * needed)} "
        )
        concern += "let it run for years"
    return Seen(None, f"{_gib(free)} free in {folder}, {_gib(needed)} needed", concern)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
