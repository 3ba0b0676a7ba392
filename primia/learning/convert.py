"""Make a network fit for private training: find what mixes films, replace it, choose what learns.

All changes are in place and keep the parameters themselves: their values, dtype, device,
requires_grad, order, ties between layers, and what an optimiser already holds.
"""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from primia.errors import ConfigError
from primia.learning.layers import (
    WeightStandardisedConv1d,
    WeightStandardisedConv2d,
    WeightStandardisedConv3d,
)

TRAINABLE = ("all", "head", "bias")
_HEADS = ("fc", "classifier", "head", "heads")  # as torchvision's networks name them
_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, _NormBase)


def validate(model: nn.Module) -> None:
    """Raise ConfigError naming the first layer through which one film reaches another's gradient.

    Looked for are batch statistics in any mode, and layers whose own state changes as films pass.
    What a hand-written forward does with its batch cannot be seen here: test it by changing the
    other films of a batch.
    """
    faults = [
        (path, module, fault)
        for path, module in model.named_modules()
        if (fault := _fault(module)) is not None
    ]
    if faults:
        path, module, fault = faults[0]
        more = f" ({len(faults) - 1} more like it)" if len(faults) > 1 else ""
        raise ConfigError(f"module {path or 'model'!r} ({type(module).__name__}) {fault}{more}")


def _fault(module: nn.Module) -> str | None:
    if isinstance(module, _BatchNorm):
        return (
            "takes statistics over a batch, so one patient's film changes the gradients of others "
            "and no clipping bounds it; use GroupNorm instead, batch_to_group_norm converts"
        )
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        return (
            "keeps running statistics, so one patient's film changes the outputs for others, "
            "without clipping or noise; use GroupNorm instead, or track_running_stats=False"
        )
    hooks = module._forward_pre_hooks.values()
    if isinstance(module, _SpectralNorm) or any(isinstance(h, SpectralNorm) for h in hooks):
        return (
            "changes its power iteration at each forward pass, so a patient's gradient depends on "
            "how many batches went before; remove the spectral norm, use weight standardisation"
        )
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
        return (
            "rewrites the rows that a batch looks up, without clipping or noise; use max_norm=None"
        )
    return None


def group_count(channels: int, groups: int = 32, *, at_least: int = 2) -> int:
    """Groups for a GroupNorm: gcd(groups, channels), or fewer.

    32 groups: Wu & He, ECCV 2018. Fewer where a group would have less than `at_least` channels
    (one group in the end): a group of one channel at one position is always normalised to zero,
    which erases the film, and one of two values keeps only which is larger.
    """
    most = math.gcd(groups, channels)
    fit = [g for g in range(1, most + 1) if most % g == 0 and channels // g >= at_least]
    return max(fit, default=1)


def batch_to_group_norm(model: nn.Module, groups: int = 32) -> list[str]:
    """Replace, in place, each batch norm by a GroupNorm; return the paths that changed.

    BatchNorm1d/2d/3d and SyncBatchNorm become GroupNorm with the same eps, weight, bias and
    training flag; one that stands at two paths is still one layer afterwards. InstanceNorm
    stops tracking and then uses the film's own statistics in evaluation as in training.

    groups: as in `group_count`. A BatchNorm1d may see (n, channels), where a group has but its
    channels to normalise over, so its groups have 16 channels or more (Wu & He's other choice);
    with one channel and one position nothing of the input is left, whatever the norm.

    The running statistics are dropped: the outputs of a pre-trained network change, and it has
    to be fine-tuned before they mean anything. Raises ConfigError, and changes nothing, for
    groups below 1, a model that is itself a batch norm, and a lazy one that has seen no film.
    """
    if groups < 1:
        raise ConfigError(f"groups {groups}: need at least 1")
    replacement: dict[_BatchNorm, nn.GroupNorm] = {}
    changed: list[str] = []
    modules = list(model.named_modules(remove_duplicate=False))
    for path, module in modules:
        if isinstance(module, _BatchNorm):
            replacement[module] = _group_norm_for(module, groups, path)
            changed.append(path)
        elif isinstance(module, _InstanceNorm) and module.track_running_stats:
            changed.append(path)
    for path, module in modules:
        if isinstance(module, _BatchNorm):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, replacement[module])
        elif isinstance(module, _InstanceNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return changed


def _group_norm_for(module: _BatchNorm, groups: int, path: str) -> nn.GroupNorm:
    if not path:
        raise ConfigError("the model is itself a batch norm; put it into a Sequential")
    if module.num_features == 0:
        raise ConfigError(
            f"module {path!r} ({type(module).__name__}) does not know its channels yet; pass one "
            "film through the model first"
        )
    count = group_count(
        module.num_features, groups, at_least=16 if isinstance(module, nn.BatchNorm1d) else 2
    )
    norm = nn.GroupNorm(
        count, module.num_features, eps=module.eps, affine=module.affine, device="meta"
    )
    norm.weight, norm.bias = module.weight, module.bias  # None where there is no affine
    return norm.train(module.training)


def add_weight_standardisation(model: nn.Module) -> list[str]:
    """Give each convolution standardised weights, in place; return the paths that changed.

    Conv1d/2d/3d become the layers of `primia.learning.layers`, with the weights as they were.
    Subclasses stay as they are, for what they do with their weight is their own, and so do
    convolutions with one weight a channel (1x1, depthwise), of which zero would be left.
    """
    standardised = {
        nn.Conv1d: WeightStandardisedConv1d,
        nn.Conv2d: WeightStandardisedConv2d,
        nn.Conv3d: WeightStandardisedConv3d,
    }
    changed: list[str] = []
    for path, module in model.named_modules():
        target = standardised.get(type(module))
        if target is not None and module.weight[0].numel() > 1:
            # As torch's lazy layers do: hooks, ties and a model that is the layer itself survive.
            module.__class__ = target
            changed.append(path)
    return changed


def train_only(model: nn.Module, what: str) -> list[str]:
    """Set requires_grad of every parameter; return the names of those that will be trained.

    what: "all"; "head", a linear probe: the last layer with parameters, in order of
        registration, searched in `fc`, `classifier`, `head` or `heads` if there is one; "bias":
        the head, every bias and the weights of normalisations, where they are vectors (BiTFiT,
        Zaken et al., ACL 2022; private in Bu et al., arXiv 2210.00036). Noise grows with the
        square root of what is trained.

    Raises ConfigError for another word, and when nothing would be trained.
    """
    if what not in TRAINABLE:
        raise ConfigError(f"trainable {what!r}: unknown; choose one of {', '.join(TRAINABLE)}")
    if what == "all":
        chosen = list(model.parameters())
    else:
        chosen = _head(model)
        if what == "bias":
            chosen += _biases(model)
    ids = {id(p) for p in chosen}
    names = [name for name, p in model.named_parameters() if id(p) in ids]
    if not names:
        raise ConfigError(f"trainable {what!r}: the model has no such parameters to train")
    for p in model.parameters():
        p.requires_grad_(id(p) in ids)
    return names


def _head(model: nn.Module) -> list[nn.Parameter]:
    named = [child for name, child in model.named_children() if name in _HEADS]
    owned = [list(m.parameters(recurse=False)) for m in (named or [model])[-1].modules()]
    return next((parameters for parameters in reversed(owned) if parameters), [])


def _biases(model: nn.Module) -> list[nn.Parameter]:
    return [
        p
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
        if p.dim() == 1 and (name.endswith("bias") or isinstance(module, _NORMS))
    ]
