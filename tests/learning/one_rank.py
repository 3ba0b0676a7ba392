"""One process of `test_several_processes_make_one_step`: train, print the weights as JSON.

Arguments: rank, number of ranks, file to meet at, steps, sampling rate, adaptive or flat.
"""

import json
import sys

import torch
import torch.distributed as dist
from seeded_stream import seeded_entropy
from torch import nn

from primia.learning import private
from primia.learning.clipping import AdaptiveQuantile, Flat
from primia.learning.parallel import leave_group


def main(rank, ranks, meeting, steps, rate, kind):
    torch.set_num_threads(1)
    group = None
    if ranks > 1:
        dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=ranks)
        group = dist.group.WORLD
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(64, 2),
    )
    if rank:  # a rank that starts from other weights must not go its own way
        nn.init.zeros_(model[4].weight)
    torch.manual_seed(1)
    films, labels = torch.randn(30, 1, 6, 6), torch.randint(0, 2, (30,))
    patients = torch.arange(30) * 2 // 3  # one film, two films, one film, ...
    clipping = AdaptiveQuantile(1.0, count_noise=2.0) if kind == "adaptive" else Flat(0.5)
    training = private(
        model,
        torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9),
        units=patients,
        sampling_rate=rate,
        delta=1e-3,
        noise_multiplier=1.0,
        clipping=clipping,
        entropy=seeded_entropy(7) if rank == 0 else no_entropy,
        group=group,
    )
    rows_seen = []
    for rows in training.batches(steps):
        rows_seen.append(rows.tolist())
        training.step(nn.CrossEntropyLoss(reduction="none"), films[rows], labels[rows])
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()
    print(json.dumps({"weights": weights, "rows": rows_seen, "clip_norm": clipping.clip_norm}))
    if group is not None:
        leave_group()


def no_entropy(size):
    raise AssertionError("only the first process draws units and noise")


if __name__ == "__main__":
    _, rank, ranks, meeting, steps, rate, kind = sys.argv
    main(int(rank), int(ranks), meeting, int(steps), float(rate), kind)
