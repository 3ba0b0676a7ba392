"""What leaves a site of one step, with and without each protection, by the product's own code.

An attack needs a gradient: here it is as the coordinator works it back from an update, summed over
the patients of the step and without the plan's learning rate and divisor, which everybody knows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from primia.audit.masked import MaskedSum, masked_sum
from primia.config.plan import StudyPlan
from primia.errors import ConfigError
from primia.federation.contribution import Contribution, Entropy
from primia.imaging.dataset import Films
from primia.learning.clipped import PerUnitClipping
from primia.learning.local import loss_of_each, private_step, to_input
from primia.learning.step import PrivateStep
from primia.learning.terms import LocalTerms, Privacy
from primia.secagg.encoding import decode_sum
from primia.study import contribution

Gradient = list[torch.Tensor]
"""One tensor for each trainable parameter, in the model's order."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one step: uint8 (n, size, size), and label and patient of each, int64 (n,)."""

    pixels: torch.Tensor
    labels: torch.Tensor
    patients: torch.Tensor

    @classmethod
    def of(cls, films: Films, index: Sequence[int] | npt.NDArray[np.int64]) -> Self:
        """The films at `index`, with their patients."""
        at = np.asarray(index, np.int64)
        return cls(
            torch.from_numpy(films.pixels[at]),
            torch.from_numpy(films.labels[at]),
            torch.from_numpy(films.patients[at]),
        )

    @property
    def units(self) -> int:
        """Patients among them."""
        return int(torch.unique(self.patients).numel())


def privacy_of(terms: LocalTerms) -> Privacy:
    """Clip and noise. Raises ConfigError for `privacy: none`."""
    if terms.privacy is None:
        raise ConfigError(
            "the plan says privacy: none, so there is no clipping or noise to attack; every update "
            "is a plain one"
        )
    return terms.privacy


class Releases:
    """One network under one plan: the same step's gradient, released in different ways.

    terms: of the plan; one without privacy has nothing to clip or noise by.
    """

    def __init__(self, model: nn.Module, plan: StudyPlan, entropy: Entropy = os.urandom) -> None:
        self.model, self.plan, self._entropy = model, plan, entropy
        self.terms = LocalTerms.of(plan)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._prepare = partial(to_input, channels=plan.model.channels, device="cpu")
        self._clipped = PerUnitClipping(model, prepare=self._prepare)

    @property
    def privacy(self) -> Privacy:
        """Clip and noise of the plan. Raises ConfigError for `privacy: none`."""
        return privacy_of(self.terms)

    def plain(self, rows: Rows) -> Gradient:
        """Without any protection: the sum over rows of the gradients of their losses."""
        losses = loss_of_each(self.model(self._prepare(rows.pixels)), rows.labels)
        return list(torch.autograd.grad(losses.sum(), self.parameters))

    def clipped(self, rows: Rows) -> Gradient:
        """Each patient's gradient clipped as the plan says, and summed."""
        return self._clipped.sum(
            self._step().clipping, loss_of_each, rows.pixels, rows.labels, rows.patients
        ).gradients

    def noised(self, rows: Rows, noise_multiplier: float | None = None) -> Gradient:
        """The same with noise: the plan's, or another one.

        With shared noise this is what a sum holds of it: the noise of one site alone is less.
        """
        step = self._step(noise_multiplier)
        mean = step.noised_mean(
            self._clipped, loss_of_each, rows.pixels, rows.labels, rows.patients
        )
        return [part * step.divisor for part in mean]

    def ways(self) -> dict[str, Callable[[Rows], Gradient]]:
        """Each way to release a step by its name, the most protected last."""
        return {"plain": self.plain, "clipped": self.clipped, "as planned": self.noised}

    def _step(self, noise_multiplier: float | None = None) -> PrivateStep:
        _ = self.privacy
        step = private_step(self.terms, self._entropy)
        if noise_multiplier is None:
            return step
        return PrivateStep(
            clipping=step.clipping,
            sampling_rate=step.sampling_rate,
            noise_multiplier=noise_multiplier,
            divisor=step.divisor,
            entropy=self._entropy,
        )

    def masked(self, gradients: Sequence[Gradient]) -> tuple[Gradient, MaskedSum]:
        """The sum of one gradient a site, as the coordinator decodes it; and the whole round.

        Each is sent as the update of one step: times learning rate, over the divisor.
        """
        fixed = self._contribution()
        scale = -self.terms.learning_rate / self.terms.expected_patients
        none = np.zeros(fixed.metrics, np.int64)
        vectors = [
            fixed.encode(self._flat(g) * np.float32(scale), weight=1, metrics=none)[0]
            for g in gradients
        ]
        found = masked_sum(self.plan, fixed, vectors, entropy=self._entropy)
        total = found.aggregate.mean_update * (len(vectors) / scale)
        return self._spread(total), found

    def one_upload(self, gradients: Sequence[Gradient]) -> Gradient:
        """What the coordinator holds of the first site before the sum is opened, read as if it
        were no masked vector."""
        fixed = self._contribution()
        _, found = self.masked(gradients)
        words = fixed.layout.split(found.uploads[0])["update"]
        return self._spread(
            decode_sum(
                words, bits=fixed.bits, value_range=fixed.value_range, ring_bits=fixed.wire_bits
            )
        )

    def _contribution(self) -> Contribution:
        """As the plan says, for this network and equal weights; noise is none of its matters."""
        wire = self.plan.aggregation
        plain = self.plan.model_copy(
            update={
                "privacy": "none",
                "aggregation": wire.model_copy(
                    update={"weighting": "constant", "max_patients": None}
                ),
            }
        )
        return contribution(plain, sum(p.numel() for p in self.model.parameters()))

    def _flat(self, gradient: Gradient) -> npt.NDArray[np.float32]:
        """As an update: zero where the plan's model does not learn."""
        of = dict(zip(self.parameters, gradient, strict=True))
        parts = [of.get(p, torch.zeros_like(p)).flatten() for p in self.model.parameters()]
        return torch.cat(parts).detach().numpy()

    def _spread(self, flat: npt.NDArray[np.floating]) -> Gradient:
        """The inverse: a vector over all weights as the gradient of those that learn."""
        gradient, start = [], 0
        for p in self.model.parameters():
            part = torch.from_numpy(flat[start : start + p.numel()].astype(np.float32))
            start += p.numel()
            if p.requires_grad:
                gradient.append(part.view_as(p))
        return gradient
