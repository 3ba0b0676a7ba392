"""One site's work in one round: from the global weights to a noised update."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from primia.errors import DataError
from primia.imaging.dataset import Films
from primia.learning.dpsgd import clipped_sum
from primia.learning.models import FloatVector, build, flatten, load_flat
from primia.learning.noise import Entropy, add_gaussian
from primia.learning.sampling import Indices, films_of, poisson_patients
from primia.learning.terms import LocalTerms

OnStep = Callable[[int, int], None]
"""Called after each step with (steps done, steps in the round)."""


@dataclass(frozen=True, eq=False)
class LocalUpdate:
    """What one round of local work gave.

    delta: new weights minus old ones, float32 (parameters,). With privacy it is already noised.
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
) -> LocalUpdate:
    """Train on the site's films, starting from the global `weights`.

    With privacy, DP-SGD with momentum (Abadi et al., CCS 2016): every step draws patients by
    Poisson sampling, sums their clipped gradients, adds noise, divides by the plan's constant.
    Without, ordinary mini-batches of the same expected size. Momentum starts from zero in each
    round, so nothing but the weights is carried from one round to the next.

    Raises PeerError when `weights` do not fit the plan's model, DataError when the films do not.
    """
    _check(films, terms)
    model = build(
        terms.model, input_size=terms.input_size, channels=terms.channels, classes=terms.classes
    )
    load_flat(model, weights)
    model.to(device)
    pixels, labels = torch.from_numpy(films.pixels), torch.from_numpy(films.labels)
    gradient = _private_gradient if terms.privacy else _plain_gradient
    batches = _poisson_batches if terms.privacy else _shuffled_batches
    momentum = torch.zeros(weights.size, device=device)
    for step, rows in enumerate(batches(terms, films, entropy), start=1):
        index = torch.from_numpy(rows)
        batch = Batch(
            to_input(pixels[index], terms.channels, device),
            labels[index].to(device),
            torch.from_numpy(films.patients[rows]).to(device),
        )
        momentum.mul_(terms.momentum).add_(gradient(model, batch, terms, entropy))
        _descend(model, momentum, terms.learning_rate)
        if on_step is not None:
            on_step(step, terms.local_steps)
    return LocalUpdate(flatten(model) - weights, terms.local_steps, films.patient_count)


@dataclass(frozen=True, eq=False)
class Batch:
    """The films of one step: inputs (n, channels, size, size), labels (n,), patients (n,)."""

    inputs: torch.Tensor
    labels: torch.Tensor
    patients: torch.Tensor


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


def _private_gradient(
    model: nn.Module, batch: Batch, terms: LocalTerms, entropy: Entropy
) -> torch.Tensor:
    """One noised gradient estimate. An empty batch is noise alone, and counts like any other."""
    assert terms.privacy is not None
    clip_norm = terms.privacy.clip_norm
    noisy_sum = clipped_sum(model, batch.inputs, batch.labels, batch.patients, clip_norm)
    add_gaussian(noisy_sum, terms.privacy.noise_multiplier * clip_norm, entropy)
    # A constant of the plan: how many patients were drawn is private and must not scale the step.
    return noisy_sum / terms.expected_patients


def _plain_gradient(
    model: nn.Module, batch: Batch, _terms: LocalTerms, _entropy: Entropy
) -> torch.Tensor:
    loss = nn.functional.cross_entropy(model(batch.inputs), batch.labels)
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([part.reshape(-1) for part in parts])


def _poisson_batches(terms: LocalTerms, films: Films, entropy: Entropy) -> Iterator[Indices]:
    for _ in range(terms.local_steps):
        drawn = poisson_patients(films.patient_count, terms.sampling_rate, entropy)
        yield films_of(drawn, films.patients, terms.max_films_per_patient, entropy)


def _shuffled_batches(terms: LocalTerms, films: Films, entropy: Entropy) -> Iterator[Indices]:
    """Patients in random order, `expected_patients` at a time, anew when all were seen."""
    generator = np.random.default_rng(int.from_bytes(entropy(16), "little"))
    size = max(1, min(round(terms.expected_patients), films.patient_count))
    order = np.empty(0, np.int64)
    for _ in range(terms.local_steps):
        if order.size < size:
            order = generator.permutation(films.patient_count)
        drawn, order = order[:size], order[size:]
        yield films_of(drawn, films.patients, terms.max_films_per_patient, entropy)


def _descend(model: nn.Module, direction: torch.Tensor, learning_rate: float) -> None:
    start = 0
    with torch.no_grad():
        for p in model.parameters():
            part = direction[start : start + p.numel()].view_as(p)
            p.sub_(part, alpha=learning_rate)
            start += p.numel()


def _check(films: Films, terms: LocalTerms) -> None:
    if len(films) == 0:
        raise DataError("no training films at this site; check the site file's data section")
    if films.size != terms.input_size:
        raise DataError(
            f"films are {films.size} px, the plan trains on {terms.input_size} px; read them at "
            "the plan's size"
        )
    if films.labels.max() >= terms.classes:
        raise DataError(
            f"a film has class {films.labels.max()}, the plan has {terms.classes} classes counted "
            "from 0; check the labels"
        )
