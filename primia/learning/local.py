"""One site's work in one round: from the global weights to a noised update."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from primia.errors import DataError
from primia.imaging.dataset import Films
from primia.learning.augment import augment
from primia.learning.clipped import PerUnitClipping
from primia.learning.clipping import clipping_by_name
from primia.learning.models import FloatVector, Network, build_for, flatten, load_flat
from primia.learning.noise import Entropy
from primia.learning.sampling import Indices, films_of
from primia.learning.step import Notice, PrivateStep
from primia.learning.terms import LocalTerms, OnStep

_PLAIN_BATCH = 64  # films at a time without privacy


@dataclass(frozen=True, eq=False)
class LocalUpdate:
    """What one round of local work gave.

    delta: new weights minus old ones, float32 (parameters,). With privacy it is already noised.
        Zero where the plan's model does not learn.
    steps: noisy sums that went into it, to be charged; patients: private, leaves only masked.
    """

    delta: FloatVector
    steps: int
    patients: int


def train_locally(
    terms: LocalTerms,
    weights: FloatVector,
    films: Films,
    *,
    device: str = "cpu",
    on_step: OnStep | None = None,
    entropy: Entropy = os.urandom,
    group: dist.ProcessGroup | None = None,
    network: Network = build_for,
    notice: Notice | None = None,
) -> LocalUpdate:
    """Train on the site's films, starting from the global `weights`.

    With privacy, DP-SGD with momentum (Abadi et al., CCS 2016): every step draws patients by
    Poisson sampling, sums their clipped gradients, adds noise, divides by the plan's constant.
    Without, ordinary mini-batches of the same expected size. Momentum starts from zero in each
    round, so nothing but the weights is carried from one round to the next.

    group: processes with the same films that share each step, see `parallel`; privacy only.
    notice: shown each step's clipped sum, as `PrivateStep` does.

    Raises PeerError when `weights` do not fit the plan's model, DataError when the films do not.
    """
    model = starting_model(terms, weights, films, network).to(device)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learning, lr=terms.learning_rate, momentum=terms.momentum)
    prepare = partial(to_input, channels=terms.model.channels, device=device)
    gradients = (
        _private_gradients(
            model,
            terms,
            films,
            prepare,
            replace(private_step(terms, entropy, group), notice=notice),
        )
        if terms.privacy
        else _plain_gradients(model, terms, films, prepare, entropy)
    )
    for step, gradient in enumerate(gradients, start=1):
        for parameter, part in zip(learning, gradient, strict=True):
            parameter.grad = part
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)  # the next sum is not held beside this one
        if on_step is not None:
            on_step(step, terms.local_steps)
    return LocalUpdate(flatten(model) - weights, terms.local_steps, films.patient_count)


def starting_model(
    terms: LocalTerms, weights: FloatVector, films: Films, network: Network = build_for
) -> nn.Module:
    """The plan's network with these weights, on the CPU, once all three fit together.

    Raises as `train_locally`.
    """
    _check(films, terms)
    model = network(terms.model)
    load_flat(model, weights)
    return model


def to_input(pixels: torch.Tensor, channels: int, device: str) -> torch.Tensor:
    """Grey uint8 films (n, size, size) as the network sees them, float32 (n, channels, size, size).

    Each film by its own mean and deviation: hospitals differ in exposure, and statistics over the
    site's films would be a release of their own.
    """
    films = pixels.to(device, torch.float32)
    centred = films - films.mean((1, 2), keepdim=True)
    deviation = centred.square().mean((1, 2), keepdim=True).sqrt()
    scaled = centred / deviation.clamp_min(1.0)  # a blank film stays blank
    return scaled[:, None].expand(-1, channels, -1, -1)


Prepare = Callable[[torch.Tensor], torch.Tensor]
Gradients = Iterator[list[torch.Tensor]]


def _private_gradients(
    model: nn.Module,
    terms: LocalTerms,
    films: Films,
    prepare: Prepare,
    step: PrivateStep,
) -> Gradients:
    """The noised gradient of each step. An empty batch is noise alone, and counts like any."""
    clipped = PerUnitClipping(model, prepare=prepare)
    for _ in range(terms.local_steps):
        rows = views(step.draw(films.patient_count), terms, films, step.entropy)
        yield step.noised_mean(clipped, loss_of_each, *rows)


def private_step(
    terms: LocalTerms, entropy: Entropy, group: dist.ProcessGroup | None = None
) -> PrivateStep:
    """The step of DP-SGD that the terms describe. Raises ConfigError as `PrivateStep`."""
    assert terms.privacy is not None
    return PrivateStep(
        clipping=clipping_by_name(terms.privacy.clipping, terms.privacy.clip_norm),
        sampling_rate=terms.sampling_rate,
        noise_multiplier=terms.privacy.noise_multiplier,
        divisor=terms.expected_patients,
        entropy=entropy,
        group=group,
    )


def _plain_gradients(
    model: nn.Module, terms: LocalTerms, films: Films, prepare: Prepare, entropy: Entropy
) -> Gradients:
    """The mean gradient of each mini-batch."""
    learning = [p for p in model.parameters() if p.requires_grad]
    for drawn in _shuffled_patients(terms, films, entropy):
        pixels, labels, _ = views(drawn, terms, films, entropy)
        total = [torch.zeros_like(p) for p in learning]
        for start in range(0, len(pixels), _PLAIN_BATCH):
            part = slice(start, start + _PLAIN_BATCH)
            inputs = prepare(pixels[part])
            loss = loss_of_each(model(inputs), labels[part].to(inputs.device)).sum()
            found = torch.autograd.grad(loss / len(pixels), learning)
            torch._foreach_add_(total, found)
        yield total


def views(
    drawn: Indices, terms: LocalTerms, films: Films, entropy: Entropy
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Films of the drawn patients, in as many views as the plan says: uint8 (rows, size, size),
    and the label and the patient of each, int64 (rows,)."""
    rows = films_of(drawn, films.patients, terms.max_films_per_patient, entropy)
    pixels = torch.from_numpy(films.pixels[rows])
    labels = torch.from_numpy(films.labels[rows])
    patients = torch.from_numpy(films.patients[rows])
    if terms.augmentations == 1:
        return pixels, labels, patients
    generator = torch.Generator().manual_seed(int.from_bytes(entropy(7), "little"))
    return (
        augment(pixels, terms.augmentations, generator),
        labels.repeat_interleave(terms.augmentations),
        patients.repeat_interleave(terms.augmentations),
    )


def loss_of_each(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def _shuffled_patients(terms: LocalTerms, films: Films, entropy: Entropy) -> Iterator[Indices]:
    """Patients in random order, `expected_patients` at a time, anew when all were seen."""
    generator = np.random.default_rng(int.from_bytes(entropy(16), "little"))
    size = max(1, min(round(terms.expected_patients), films.patient_count))
    order = np.empty(0, np.int64)
    for _ in range(terms.local_steps):
        if order.size < size:
            order = generator.permutation(films.patient_count)
        drawn, order = order[:size], order[size:]
        yield drawn


def _check(films: Films, terms: LocalTerms) -> None:
    if len(films) == 0:
        raise DataError("no training films at this site; check the site file's data section")
    if films.size != terms.model.input_size:
        raise DataError(
            f"films are {films.size} px, the plan trains on {terms.model.input_size} px; read them "
            "at the plan's size"
        )
    if films.labels.max() >= len(terms.model.classes):
        raise DataError(
            f"a film has class {films.labels.max()}, the plan has {len(terms.model.classes)} "
            "classes counted from 0; check the labels"
        )
