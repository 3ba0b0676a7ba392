"""Find the trainable modules of a model, give each its rule, and put the rules in place.

A rule serves a class and its subclasses as long as they keep the class's `forward`; a subclass
that computes something else has no rule. A module without a rule is an error that names it:
nothing is ever left out of the clipping, and nothing is silently frozen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import nn

from primia.errors import ConfigError
from primia.learning.convert import validate
from primia.learning.engine import convolution, dense, norms
from primia.learning.engine.book import Book
from primia.learning.engine.choice import Method
from primia.learning.engine.generic import by_vmap
from primia.learning.engine.layer import Layer, Rule
from primia.learning.layers import (
    WeightStandardisedConv1d,
    WeightStandardisedConv2d,
    WeightStandardisedConv3d,
)

RULES: Mapping[type[nn.Module], Rule] = {
    nn.Conv1d: convolution.convolution,
    nn.Conv2d: convolution.convolution,
    nn.Conv3d: convolution.convolution,
    WeightStandardisedConv1d: convolution.convolution,
    WeightStandardisedConv2d: convolution.convolution,
    WeightStandardisedConv3d: convolution.convolution,
    nn.ConvTranspose1d: convolution.transposed_convolution,
    nn.ConvTranspose2d: convolution.transposed_convolution,
    nn.ConvTranspose3d: convolution.transposed_convolution,
    nn.Linear: dense.linear,
    nn.Embedding: dense.embedding,
    nn.GroupNorm: norms.group_norm,
    nn.InstanceNorm1d: norms.group_norm,
    nn.InstanceNorm2d: norms.group_norm,
    nn.InstanceNorm3d: norms.group_norm,
    nn.LayerNorm: norms.layer_norm,
    nn.RMSNorm: norms.rms_norm,
    nn.PReLU: by_vmap,
    nn.Bilinear: by_vmap,
}
"""The rules that come with the engine, by class."""


class Attached:
    """A model's trainable modules with their rules.

    rules: for further classes, or other rules for the known ones; `by_vmap` serves any module
        whose rows are in the first dimension.
    methods: a method for a layer, by its path, instead of the one chosen from shapes.

    Raises ConfigError naming the module for batch statistics, a module without a rule, a model
    without trainable parameters, or a path in `methods` that is not there.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rules: Mapping[type[nn.Module], Rule] | None = None,
        methods: Mapping[str, Method] | None = None,
    ) -> None:
        validate(model)
        self.model = model
        self.layers = _layers(model, {**RULES, **(rules or {})})
        known = {layer.path: layer for layer in self.layers}
        for path, method in (methods or {}).items():
            if path not in known:
                raise ConfigError(
                    f"methods: no trainable layer {path!r}; the layers are {', '.join(known)}"
                )
            known[path].wanted = Method(method)
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    @contextmanager
    def booking(self, book: Book) -> Iterator[None]:
        """Inside, the model's forward pass is made so that its backward pass fills `book`."""
        try:
            for layer in self.layers:
                layer.open(book)
                layer.module.forward = partial(layer.rule, layer)
            yield
        finally:
            for layer in self.layers:
                layer.open(None)
                layer.module.__dict__.pop("forward", None)


def _layers(model: nn.Module, rules: Mapping[type[nn.Module], Rule]) -> list[Layer]:
    owners: Counter[nn.Parameter] = Counter()
    found: list[Layer] = []
    inside: str | None = None  # a module served as a whole, children included
    for path, module in model.named_modules():
        if inside is not None and (path == inside or path.startswith(inside + ".") or not inside):
            continue
        inside = None
        own = {n: p for n, p in module.named_parameters(recurse=False) if p.requires_grad}
        if not own:
            continue
        rule = _rule_for(path, module, rules)
        if rule is by_vmap:
            inside = path
            own = {n: p for n, p in module.named_parameters() if p.requires_grad}
        owners.update(own.values())
        found.append(Layer(path, module, len(found), rule, module.forward, own))
    if not found:
        raise ConfigError("the model has no trainable parameter; set requires_grad on some")
    for layer in found:
        layer.tied = any(owners[p] > 1 for p in layer.parameters.values())
    return found


def _rule_for(path: str, module: nn.Module, rules: Mapping[type[nn.Module], Rule]) -> Rule:
    kind = type(module)
    where = f"module {path or '(model)'!r} ({kind.__name__})"
    if "forward" in module.__dict__:
        raise ConfigError(
            f"{where}: its forward was replaced on the object itself, by another library or an "
            "unfinished step; private training needs the class's own"
        )
    for base in kind.__mro__:
        if base in rules and (base is kind or _computes_the_same(kind, base)):
            rule = rules[base]
            if rule is RULES.get(base) and rule is not by_vmap:
                _refuse_extra_parameters(where, module)
            return rule
    raise ConfigError(
        f"{where}: no rule for the gradients of its parameters; register one in `rules`, take "
        "`by_vmap` for it if its rows come first, or freeze it with requires_grad_(False)"
    )


def _refuse_extra_parameters(where: str, module: nn.Module) -> None:
    """Our own rules know `weight` and `bias`; weight norms and the like add others by hooks."""
    extra = [n for n, _ in module.named_parameters(recurse=False) if n not in {"weight", "bias"}]
    if extra:
        raise ConfigError(
            f"{where}: parameters {', '.join(extra)} beside weight and bias, which its rule does "
            "not know; register a rule for the class, or take what added them off"
        )


def _computes_the_same(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    return all(
        getattr(kind, name, None) is getattr(base, name, None)
        for name in ("forward", "_conv_forward", "_output_padding", "__call__")
    )
