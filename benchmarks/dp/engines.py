"""Ways to take a private step, each behind the same two calls: make the step, take it.

A step leaves in each parameter's `grad` what the optimiser (plain SGD) applied: the clipped sum
plus noise, over the size of the logical batch. So the check for equality and the measurement run
the same code; only the noise multiplier differs.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from benchmarks.dp.cases import Batch, Losses

Step = Callable[[Sequence[Batch]], None]
"""Takes one logical batch in its physical parts and updates the model."""


class Unsupported(Exception):
    """This engine cannot run this case here; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What every engine is told. logical: images of one step, the divisor."""

    logical: int
    clip_norm: float = 1.0
    noise_multiplier: float = 1.0
    learning_rate: float = 1e-3


Engine = Callable[[nn.Module, Losses, Terms], Step]


def plain(model: nn.Module, losses: Losses, terms: Terms) -> Step:
    """Ordinary training, the floor: gradients accumulate over the physical batches."""
    optimizer = _sgd(model, terms)

    def step(batches: Sequence[Batch]) -> None:
        optimizer.zero_grad()
        for inputs, targets in batches:
            (losses(model(inputs), targets).sum() / terms.logical).backward()
        optimizer.step()

    return step


def primia(model: nn.Module, losses: Losses, terms: Terms) -> Step:
    """The product's own engine and noise; each image is a patient."""
    from primia.learning.clipped import PerUnitClipping
    from primia.learning.clipping import CLIP_MARGIN, Flat
    from primia.learning.step import PrivateStep

    optimizer = _sgd(model, terms)
    private = PrivateStep(
        # It clips a little below the bound it is given; the others clip at the bound.
        clipping=Flat(terms.clip_norm / (1 - CLIP_MARGIN)),
        sampling_rate=1.0,
        noise_multiplier=terms.noise_multiplier or 1.0,
        divisor=terms.logical,
    )
    clipped = PerUnitClipping(model)

    def step(batches: Sequence[Batch]) -> None:
        optimizer.zero_grad()
        clipped.physical_batch = len(batches[0][0])
        inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        if terms.noise_multiplier:
            gradients = private.noised_mean(clipped, losses, inputs, targets)
        else:
            gradients = clipped.sum(private.clipping, losses, inputs, targets).gradients
            torch._foreach_div_(gradients, terms.logical)
        for p, gradient in zip(clipped.parameters, gradients, strict=True):
            p.grad = gradient
        optimizer.step()

    return step


def loop(model: nn.Module, losses: Losses, terms: Terms) -> Step:
    """One image at a time by ordinary autograd: the reference for all others."""
    parameters = list(model.parameters())
    optimizer = _sgd(model, terms)

    def step(batches: Sequence[Batch]) -> None:
        sums = [torch.zeros_like(p) for p in parameters]
        for inputs, targets in batches:
            for i in range(len(inputs)):
                loss = losses(model(inputs[i : i + 1]), targets[i : i + 1]).sum()
                gradients = torch.autograd.grad(loss, parameters)
                scale = min(1.0, terms.clip_norm / float(total_norm(gradients)))
                for total, gradient in zip(sums, gradients, strict=True):
                    total.add_(gradient, alpha=scale)
        _noise_and_descend(parameters, sums, terms, optimizer)

    return step


VMAP_CHUNK = 8
"""Images a call; the gradients of more would not stay in any cache, and soon not in memory."""


def vmap_of_grad(model: nn.Module, losses: Losses, terms: Terms) -> Step:
    """torch.func: the gradient of one image, vectorised over a chunk of images."""
    parameters = dict(model.named_parameters())
    optimizer = _sgd(model, terms)

    def loss(
        weights: dict[str, torch.Tensor], image: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        return losses(functional_call(model, weights, (image[None],)), target[None]).sum()

    per_image = vmap(grad(loss), in_dims=(None, 0, 0))

    def step(batches: Sequence[Batch]) -> None:
        weights = {name: p.detach() for name, p in parameters.items()}
        sums = [torch.zeros_like(p) for p in parameters.values()]
        for inputs, targets in batches:
            for chunk in zip(inputs.split(VMAP_CHUNK), targets.split(VMAP_CHUNK), strict=True):
                gradients = list(per_image(weights, *chunk).values())
                norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
                scale = (terms.clip_norm / norms).clamp_max(1.0)
                for total, gradient in zip(sums, gradients, strict=True):
                    total += torch.einsum("n,n...->...", scale, gradient)
        _noise_and_descend(list(parameters.values()), sums, terms, optimizer)

    return step


def opacus_hooks(model: nn.Module, losses: Losses, terms: Terms) -> Step:
    """Opacus: GradSampleModule and DPOptimizer."""
    with _peer("opacus"):
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

    wrapped = GradSampleModule(out_of_place(model), loss_reduction="mean")
    optimizer = DPOptimizer(
        _sgd(model, terms),
        noise_multiplier=terms.noise_multiplier,
        max_grad_norm=terms.clip_norm,
        expected_batch_size=terms.logical,
    )

    def step(batches: Sequence[Batch]) -> None:
        for part, (inputs, targets) in enumerate(batches, start=1):
            optimizer.signal_skip_step(part < len(batches))
            optimizer.zero_grad()
            losses(wrapped(inputs), targets).mean().backward()
            optimizer.step()

    return step


def opacus_ghost(model: nn.Module, losses: Losses, terms: Terms) -> Step:
    """Opacus: ghost clipping, two backward passes."""
    with _peer("opacus"):
        from opacus.grad_sample import GradSampleModuleFastGradientClipping
        from opacus.optimizers import DPOptimizerFastGradientClipping
        from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        out_of_place(model), loss_reduction="mean", max_grad_norm=terms.clip_norm
    )
    optimizer = DPOptimizerFastGradientClipping(
        _sgd(model, terms),
        noise_multiplier=terms.noise_multiplier,
        max_grad_norm=terms.clip_norm,
        expected_batch_size=terms.logical,
    )
    criterion = DPLossFastGradientClipping(wrapped, optimizer, _Reducing(losses))

    def step(batches: Sequence[Batch]) -> None:
        for part, (inputs, targets) in enumerate(batches, start=1):
            optimizer.signal_skip_step(part < len(batches))
            optimizer.zero_grad()
            criterion(wrapped(inputs), targets).backward()
            optimizer.step()

    return step


def fastdp(model: nn.Module, losses: Losses, terms: Terms) -> Step:
    """fastDP: book-keeping (MixOpt) with its trick of origin parameters, its fastest setting."""
    # Names are matched as substrings: only with a prefix is the first weight the only match.
    wrapped = nn.ModuleDict({"net": model})
    optimizer = _sgd(model, terms)
    with _peer("fastDP"):  # some of what it needs it imports only when it is made
        from fastDP import PrivacyEngine

        engine = PrivacyEngine(
            wrapped,
            batch_size=terms.logical,
            sample_size=100 * terms.logical,  # for its accountant, which is not asked
            num_steps=1000,
            max_grad_norm=terms.clip_norm,
            noise_multiplier=terms.noise_multiplier,
            clipping_mode="MixOpt",
            clipping_fn="Abadi",
            clipping_style="all-layer",
            loss_reduction="mean",
            origin_params=[next(name for name, _ in wrapped.named_parameters())],
        )
    engine.attach(optimizer)

    def step(batches: Sequence[Batch]) -> None:
        for inputs, targets in batches:
            losses(model(inputs), targets).mean().backward()
        optimizer.step()

    return step


ENGINES: dict[str, Engine] = {
    "plain": plain,
    "primia": primia,
    "loop": loop,
    "vmap": vmap_of_grad,
    "opacus-hooks": opacus_hooks,
    "opacus-ghost": opacus_ghost,
    "fastdp": fastdp,
}

NOTES = {
    "opacus": "Opacus alone ran with in-place ReLU and residual additions made out of place: its "
    "backward hooks fail on them. The plain step beside it is the unchanged network.",
    "vmap": f"vmap works on chunks of {VMAP_CHUNK} images.",
    "fastdp": "fastDP: MixOpt, Abadi clipping, first weight as origin parameter.",
}


def total_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """L2 norm over all parameters together, a scalar."""
    return torch.stack([g.norm() for g in gradients]).norm()


def out_of_place(model: nn.Module) -> nn.Module:
    """The same model without in-place ReLU and, in residual blocks, without `+=`."""
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if type(module).__name__ == "BasicBlock":
            module.forward = types.MethodType(_basic_block, module)
    return model


def _basic_block(block: Any, x: torch.Tensor) -> torch.Tensor:
    """torchvision's BasicBlock.forward, but for the addition."""
    out = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    return block.relu(out + (x if block.downsample is None else block.downsample(x)))


class _Reducing:
    """The losses as Opacus wants them: with a `reduction` that it switches off and on."""

    def __init__(self, losses: Losses) -> None:
        self.losses = losses
        self.reduction = "mean"

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = self.losses(outputs, targets)
        return losses.mean() if self.reduction == "mean" else losses


@contextmanager
def _peer(name: str) -> Iterator[None]:
    try:
        yield
    except ImportError as err:
        raise Unsupported(f"{name} is not installed ({err})") from err


def _sgd(model: nn.Module, terms: Terms) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=terms.learning_rate)


def _noise_and_descend(
    parameters: Sequence[nn.Parameter],
    sums: Sequence[torch.Tensor],
    terms: Terms,
    optimizer: torch.optim.Optimizer,
) -> None:
    """torch's own generator, as the peers use it."""
    for p, total in zip(parameters, sums, strict=True):
        if terms.noise_multiplier:
            total += torch.normal(
                0.0, terms.noise_multiplier * terms.clip_norm, total.shape, device=total.device
            )
        p.grad = total.div_(terms.logical)
    optimizer.step()
