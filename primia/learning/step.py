"""One private step: sampler, clip, noise and mechanism as one object that cannot disagree.

What is accounted (`mechanism`) and what is done (`draw`, `noised_mean`) are made from the same
fields, so a sampling rate or a noise that differs from the accountant's cannot be written down.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from primia.errors import ConfigError, StateError
from primia.learning.clipped import ClippedSum, Loss, PerUnitClipping
from primia.learning.clipping import AdaptiveQuantile, Clipping
from primia.learning.noise import Entropy, add_gaussian
from primia.learning.sampling import Indices, poisson_patients
from primia.privacy import DpSgd, gradient_noise_multiplier

Notice = Callable[[ClippedSum], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class PrivateStep:
    """A step of DP-SGD (Abadi et al., CCS 2016, Algorithm 1) for add-or-remove-one unit.

    sampling_rate: a unit's chance to be in a step's batch.
    noise_multiplier: of everything one step releases; with adaptive clipping the noised count
        takes a part of it and the gradient gets a little more noise.
    divisor: the constant that the noised sum is divided by; not the number drawn, which is
        private.
    group: processes that share one logical batch, each with a part of the drawn units; the first
        one draws and adds the noise, once.
    notice: shown each clipped sum before it is noised; what it makes of it must not leave.

    Raises ConfigError for terms out of range.
    """

    clipping: Clipping
    sampling_rate: float
    noise_multiplier: float
    divisor: float
    entropy: Entropy = os.urandom
    group: dist.ProcessGroup | None = None
    notice: Notice | None = None

    def __post_init__(self) -> None:
        if not (self.divisor > 0 and math.isfinite(self.divisor)):
            raise ConfigError(f"divisor {self.divisor}: must be a number above 0")
        try:
            self.mechanism(1)
            self.gradient_noise  # noqa: B018  (the count's own noise may be too small)
        except ValueError as err:
            raise ConfigError(str(err)) from err

    def mechanism(self, steps: int) -> DpSgd:
        """What `steps` such steps release, for the accountant and the ledger."""
        return DpSgd(self.sampling_rate, self.noise_multiplier, steps)

    @property
    def gradient_noise(self) -> float:
        """Noise multiplier of the gradient alone."""
        if isinstance(self.clipping, AdaptiveQuantile):
            return gradient_noise_multiplier(self.noise_multiplier, self.clipping.count_noise)
        return self.noise_multiplier

    def draw(self, units: int) -> Indices:
        """The units 0..units-1 of one step, by Poisson sampling; of a group, this process's part.

        May be empty: the step is then noise alone, and counts like any other.
        """
        if self.group is None:
            return poisson_patients(units, self.sampling_rate, self.entropy)
        drawn = torch.zeros(units, dtype=torch.uint8)
        if dist.get_rank(self.group) == 0:
            drawn[torch.from_numpy(poisson_patients(units, self.sampling_rate, self.entropy))] = 1
        drawn = drawn.to(_device_of(self.group))
        dist.broadcast(drawn, group_src=0, group=self.group)
        mine = np.flatnonzero(drawn.cpu().numpy())
        return mine[dist.get_rank(self.group) :: dist.get_world_size(self.group)]

    def noised_mean(
        self,
        clipped: PerUnitClipping,
        loss: Loss,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        unit: torch.Tensor | None = None,
        *,
        charge: Callable[[], None] | None = None,
    ) -> list[torch.Tensor]:
        """(clipped sum + noise) / divisor, one tensor for each trainable parameter.

        inputs, targets, unit: the rows of the drawn units, as for `PerUnitClipping.sum`.
        charge: called before anything is noised, when the sum is made. A mistake in the model, the
            loss or the shapes raises ConfigError or StateError before; whatever else goes wrong
            may depend on who was drawn, and is charged like a release.
        """
        pay = charge or (lambda: None)
        try:
            batch = clipped.sum(self.clipping, loss, inputs, targets, unit)
        except (ConfigError, StateError):
            raise
        except BaseException:
            pay()
            raise
        pay()
        if self.notice is not None:
            self.notice(batch)
        gradients = batch.gradients
        first = self.group is None or dist.get_rank(self.group) == 0
        sigma = self.gradient_noise * self.clipping.clip_norm
        add_gaussian(
            gradients,
            sigma if first else 0.0,
            self.entropy,
            scale=1.0 / self.divisor,
            threads=torch.get_num_threads(),
        )
        if self.group is not None:
            for gradient in gradients:
                dist.all_reduce(gradient, group=self.group)
        if isinstance(self.clipping, AdaptiveQuantile):
            self._adapt(self.clipping, batch, gradients[0].device)
        return gradients

    def _adapt(self, clipping: AdaptiveQuantile, batch: ClippedSum, device: torch.device) -> None:
        """Release the noised count of unclipped units; it sets the next step's bound."""
        centred = batch.within - batch.units / 2
        count = torch.tensor([centred], dtype=torch.float32, device=device)
        if self.group is None or dist.get_rank(self.group) == 0:
            add_gaussian(count, clipping.count_noise, self.entropy)
        if self.group is not None:
            dist.all_reduce(count, group=self.group)
        clipping.adapt(float(count), self.divisor)


def _device_of(group: dist.ProcessGroup) -> torch.device:
    """Where the group's collectives run: NCCL moves tensors of a GPU only."""
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
