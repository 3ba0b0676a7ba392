"""One site's round on several GPUs: a process each, one logical batch, one noise.

Every step's Poisson sample is drawn by the first process and divided among all; each clips and
sums its part, the first adds the noise, the sum over all is everybody's gradient. What is
released is the release of `train_locally` in one process.
"""

from __future__ import annotations

import multiprocessing as mp
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from primia.errors import StateError
from primia.imaging.dataset import Films
from primia.learning.local import LocalUpdate, starting_model, train_locally
from primia.learning.models import FloatVector
from primia.learning.terms import LocalTerms, OnStep

_PATIENCE = timedelta(minutes=30)  # for the slowest process in one step


def use_threads(count: int) -> None:
    """How many threads torch may use in this process."""
    torch.set_num_threads(count)


def train_on_devices(
    terms: LocalTerms,
    weights: FloatVector,
    films: Films,
    devices: Sequence[str],
    *,
    on_step: OnStep | None = None,
) -> LocalUpdate:
    """As `train_locally`, with one process for each of `devices` ("cuda:0", "cuda:1", ...).

    One device, or a plan without privacy, trains in this process on the first.
    Raises what `train_locally` raises, and StateError when a process dies; the others are then
    stopped and nothing is released.
    """
    if len(devices) == 1 or terms.privacy is None:
        return train_locally(terms, weights, films, device=devices[0], on_step=on_step)
    starting_model(terms, weights, films)  # a mistake is told here, and not by each process
    context = mp.get_context("spawn")  # CUDA does not survive a fork
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="primia-") as folder:
        meeting = str(Path(folder) / "meeting")
        pipes = [context.Pipe(duplex=False) for _ in devices]
        processes = [
            context.Process(
                target=_work,
                args=(rank, list(devices), meeting, threads, terms, weights, films, sender),
                daemon=True,
            )
            for rank, (_, sender) in enumerate(pipes)
        ]
        try:
            for process in processes:
                process.start()
            for _, sender in pipes:
                sender.close()  # so that a dead child's pipe reads as ended
            delta = _follow([receiver for receiver, _ in pipes], terms, on_step)
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()
                if process.pid is not None:
                    process.join()
    return LocalUpdate(delta, terms.local_steps, films.patient_count)


def _follow(receivers: list[Connection], terms: LocalTerms, on_step: OnStep | None) -> FloatVector:
    """Pass on the first process's progress until it sends its update and all have ended well."""
    delta: FloatVector | None = None
    done, open_ones = 0, set(receivers)
    while open_ones:
        for receiver in wait(list(open_ones)):
            assert isinstance(receiver, Connection)
            try:
                message = receiver.recv_bytes()
            except EOFError:
                raise StateError(
                    "a training process ended early, perhaps for want of memory; see its output "
                    "above, or use fewer devices (compute.processes)"
                ) from None
            if message == _STEP:
                done += 1
                if on_step is not None:
                    on_step(done, terms.local_steps)
                continue
            if message != _DONE:
                delta = np.frombuffer(message, np.float32).copy()
            open_ones.discard(receiver)
    assert delta is not None
    return delta


_STEP, _DONE = b"step", b"done"


def leave_group() -> None:
    """End the process group, all together: gloo aborts now and then when its peer has gone."""
    dist.barrier()
    dist.destroy_process_group()


def _work(
    rank: int,
    devices: list[str],
    meeting: str,
    threads: int,
    terms: LocalTerms,
    weights: FloatVector,
    films: Films,
    sender: Connection,
) -> None:
    """One process. Only bytes go back: a word for each step, and the first one's update."""
    torch.set_num_threads(threads)
    on_gpu = devices[rank].startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(devices[rank])
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=len(devices),
        timeout=_PATIENCE,
    )
    first = rank == 0
    update = train_locally(
        terms,
        weights,
        films,
        device=devices[rank],
        on_step=(lambda _done, _of: sender.send_bytes(_STEP)) if first else None,
        group=dist.group.WORLD,
    )
    sender.send_bytes(update.delta.tobytes() if first else _DONE)
    leave_group()
