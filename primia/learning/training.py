"""DP-SGD for any PyTorch model, in three lines and without the federation.

training = private(model, optimiser, units=len(films), sampling_rate=0.02, delta=1e-5,
                   noise_multiplier=1.0, clip_norm=1.0)
for rows in training.batches(steps=500):
    training.step(loss, films[rows], labels[rows])
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from primia.errors import BudgetExhausted, ConfigError, StateError
from primia.learning.clipped import Loss, PerUnitClipping, Prepare
from primia.learning.clipping import AdaptiveQuantile, Clipping, Flat
from primia.learning.engine import Choice, Method, Rule
from primia.learning.noise import Entropy
from primia.learning.step import PrivateStep
from primia.privacy import DpSgd, calibrate_noise, epsilon

_STATE_FORMAT = 1


def private(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    units: int | torch.Tensor | Sequence[Hashable],
    sampling_rate: float,
    delta: float,
    clip_norm: float = 1.0,
    clipping: Clipping | None = None,
    noise_multiplier: float | None = None,
    target_epsilon: float | None = None,
    steps: int | None = None,
    divisor: float | None = None,
    physical_batch: int | None = None,
    prepare: Prepare | None = None,
    rules: Mapping[type[nn.Module], Rule] | None = None,
    methods: Mapping[str, Method] | None = None,
    entropy: Entropy = os.urandom,
    group: dist.ProcessGroup | None = None,
) -> PrivateTraining:
    """Private training of `model` by `optimiser`, for add-or-remove-one unit.

    units: how many rows there are, each a unit of its own; or the unit of each row, (rows,), such
        as the patient of each film, by number or by name: a unit's rows are drawn together,
        averaged and clipped once.
    sampling_rate: each unit's chance to be in a step's batch (Poisson sampling).
    clip_norm: L2 bound on one unit's gradient; clipping: another way to apply one than `Flat`.
    noise_multiplier: standard deviation of the noise over the bound. Left out, it is calibrated
        so that `steps` steps reach `target_epsilon`; `steps` serves nothing else.
    target_epsilon: no step is made that would take ε at `delta` beyond it; None: no limit.
    divisor: constant by which the noised sum is divided. The default, sampling_rate · units, takes
        the number of units as public, since noise of that size tells it; give another otherwise.
    physical_batch, prepare, rules, methods: as for `PerUnitClipping`. group: as for `PrivateStep`.

    Raises ConfigError for a model that cannot be trained privately (naming the module), an
    optimiser that holds other parameters than the model's trainable ones, or terms that
    contradict each other.
    """
    unit = _numbered(units)
    if target_epsilon is not None and not 0 < target_epsilon < math.inf:
        raise ConfigError(f"target_epsilon {target_epsilon}: must be a number above 0")
    if noise_multiplier is not None and steps is not None:
        raise ConfigError("steps and noise_multiplier: steps only calibrates noise; leave one out")
    if noise_multiplier is None:
        if target_epsilon is None or steps is None:
            raise ConfigError("give noise_multiplier, or target_epsilon and steps to calibrate it")
        noise_multiplier = calibrate_noise(sampling_rate, steps, delta, target_epsilon)
    if clipping is not None and clip_norm != 1.0:
        raise ConfigError("clip_norm and clipping: give the bound in one place")
    step = PrivateStep(
        clipping=clipping or Flat(clip_norm),
        sampling_rate=sampling_rate,
        noise_multiplier=noise_multiplier,
        divisor=sampling_rate * (int(unit.max()) + 1) if divisor is None else divisor,
        entropy=entropy,
        group=group,
    )
    if group is not None:
        for parameter in model.parameters():  # all ranks start from the first one's weights
            dist.broadcast(parameter.detach(), group_src=0, group=group)
    clipped = PerUnitClipping(
        model, physical_batch=physical_batch, prepare=prepare, rules=rules, methods=methods
    )
    return PrivateTraining(clipped, optimiser, step, unit, delta, target_epsilon)


def _numbered(units: int | torch.Tensor | Sequence[Hashable]) -> torch.Tensor:
    """The unit of each row, int64 (rows,), numbered from 0 without gaps."""
    if isinstance(units, torch.Tensor):
        units = units.tolist()
    count = units if isinstance(units, int) else len(units)
    if count < 1:
        raise ConfigError("units: there are none; give the number of rows, or the unit of each")
    if isinstance(units, int):
        return torch.arange(units)
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(unit, len(numbers)) for unit in units])


class PrivateTraining:
    """Draws batches, makes noised steps, and knows what they cost. Made by `private`.

    Nothing it returns depends on the data but through the noise: no loss, no norms, no counts.
    """

    def __init__(
        self,
        clipped: PerUnitClipping,
        optimiser: torch.optim.Optimizer,
        step: PrivateStep,
        unit: torch.Tensor,
        delta: float,
        target_epsilon: float | None,
    ) -> None:
        self._clipped = clipped
        self._optimiser = optimiser
        self._step = step
        self._unit = unit
        self._units = int(unit.max()) + 1
        self._delta = delta
        self._target = target_epsilon
        self._ran: list[DpSgd] = []
        self._drawn: torch.Tensor | None = None
        self._cleared = 0  # further steps known to stay within the target
        self._stride = 1
        self._check_optimiser()
        if target_epsilon is not None and self.epsilon(further_steps=1) > target_epsilon:
            raise ConfigError(
                f"target_epsilon {target_epsilon}: one step costs {self.epsilon(1):.3f} already; "
                "take more noise or a lower sampling rate"
            )

    @property
    def mechanisms(self) -> tuple[DpSgd, ...]:
        """What ran so far, for an accountant."""
        return tuple(self._ran)

    @property
    def noise_multiplier(self) -> float:
        """As given or calibrated."""
        return self._step.noise_multiplier

    def epsilon(self, further_steps: int = 0) -> float:
        """ε at delta of all steps so far, and of so many more."""
        more = [self._step.mechanism(further_steps)] if further_steps else []
        return epsilon([*self._ran, *more], self._delta)

    def explain(self) -> list[Choice]:
        """How each layer's norms were found in the last step; `engine.table` prints it."""
        return self._clipped.explain()

    def batches(self, steps: int) -> Iterator[torch.Tensor]:
        """The rows of each step's batch, int64 (rows,), unit by unit; may be empty.

        Each has to be used by one `step` before the next is drawn.
        """
        for _ in range(steps):
            if self._drawn is not None:
                raise StateError("a batch was drawn and not used; call step with its rows")
            drawn = torch.from_numpy(self._step.draw(self._units))
            self._drawn = torch.isin(self._unit, drawn).nonzero().flatten()
            yield self._drawn

    def step(
        self, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor, *, views: int = 1
    ) -> None:
        """One noised step on the batch drawn last.

        loss: from (outputs, targets) to the loss of each row, (rows,).
        inputs, targets: of the rows that `batches` gave, in their order.
        views: inputs and targets for each row, side by side; they are averaged before clipping
            (augmentation multiplicity, De et al., arXiv 2204.13650).

        Raises BudgetExhausted, before anything is computed, if the step would take ε beyond the
        target; StateError when no batch was drawn: ε holds for Poisson-drawn batches only. A
        ConfigError charges nothing and leaves the batch to be used again; any other exception is
        charged, for it may depend on who was drawn.
        """
        rows = self._drawn
        if rows is None:
            raise StateError("no batch was drawn for this step; take rows from batches(steps)")
        if len(inputs) != views * len(rows):
            raise StateError(
                f"{len(inputs)} inputs for {len(rows)} drawn rows in {views} view(s); give each "
                "drawn row, in as many views"
            )
        self._refuse_others()
        self._refuse_overspending()
        unit = self._unit[rows].repeat_interleave(views)
        gradients = self._step.noised_mean(
            self._clipped, loss, inputs, targets, unit, charge=self._charge
        )
        # What plain training left in .grad is a raw gradient, also of what is frozen since.
        self._optimiser.zero_grad(set_to_none=True)
        for parameter, gradient in zip(self._clipped.parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """What has to be kept beside the model's and the optimiser's state; JSON can hold it."""
        ran = [[m.sampling_rate, m.noise_multiplier, m.steps] for m in self._ran]
        return {"format": _STATE_FORMAT, "ran": ran, "clip_norm": self._step.clipping.clip_norm}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`: its steps stay charged, whatever the terms are now.

        Raises StateError for another format, or when steps were made already.
        """
        if self._ran:
            raise StateError("steps were made already; load the state before the first of them")
        if state.get("format") != _STATE_FORMAT:
            raise StateError("this state was written by another version of primia; use that one")
        self._ran = [DpSgd(float(q), float(z), int(t)) for q, z, t in state["ran"]]
        self._cleared, self._stride = 0, 1
        if isinstance(self._step.clipping, AdaptiveQuantile):
            self._step.clipping.clip_norm = float(state["clip_norm"])

    def _refuse_overspending(self) -> None:
        """Price ahead in strides that double, since a price takes longer than many a step."""
        if self._target is None:
            return
        if self._cleared:
            return
        while self._stride and self.epsilon(self._stride) > self._target:
            self._stride //= 2
        if not self._stride:
            self._stride = 1
            raise BudgetExhausted(
                f"one more step would reach epsilon {self.epsilon(1):.4f}, above the target "
                f"{self._target:g}; stop here, or raise the target knowingly"
            )
        self._cleared, self._stride = self._stride, 2 * self._stride

    def _charge(self) -> None:
        self._drawn = None
        self._cleared -= bool(self._cleared)
        last = self._ran[-1] if self._ran else None
        one = self._step.mechanism(1)
        if last is not None and one == DpSgd(last.sampling_rate, last.noise_multiplier, 1):
            self._ran[-1] = self._step.mechanism(last.steps + 1)
        else:
            self._ran.append(one)

    def _refuse_others(self) -> None:
        """Whatever else the optimiser steps would be moved by a gradient without noise."""
        if self._held() - set(self._clipped.parameters):
            raise ConfigError(
                "the optimiser was given parameters after private training was set up; set it up "
                "again"
            )

    def _held(self) -> set[nn.Parameter]:
        groups = self._optimiser.param_groups
        return {p for group in groups for p in group["params"] if p.requires_grad}

    def _check_optimiser(self) -> None:
        if self._held() != set(self._clipped.parameters):
            raise ConfigError(
                "the optimiser holds other parameters than the model's trainable ones; make it "
                "from the model as it is now (after converting, freezing or moving it)"
            )
