"""Find the trainable modules of a model, give each its rule, and put the rules in place.

A rule serves a class and its subclasses as long as they keep the class's `forward`; a subclass
that computes something else has no rule. A module without a rule is an error that names it:
nothing is ever left out of the clipping, and nothing is silently frozen.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from primia.errors import ConfigError, StateError
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
        whose rows are in the first dimension, children included.
    methods: a method for a layer, by its path, instead of the one chosen from shapes.

    Raises ConfigError naming the module for batch statistics, a module without a rule, parameters
    in half precision, a model without trainable parameters, a path in `methods` or a class in
    `rules` that is not there.
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
        self.layers = _layers(model, rules or {})
        known = {layer.path: layer for layer in self.layers}
        for path, method in (methods or {}).items():
            if path not in known:
                raise ConfigError(
                    f"methods: no trainable layer {path!r}; the layers are {', '.join(known)}"
                )
            if method not in set(Method):
                names = ", ".join(m.value for m in Method)
                raise ConfigError(f"methods: {path!r} asks for {method!r}; there are {names}")
            known[path].wanted = Method(method)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        for name, p in model.named_parameters():
            if p.requires_grad and p.dtype not in {torch.float32, torch.float64}:
                raise ConfigError(
                    f"parameter {name!r} is {p.dtype}: a bound on its gradient needs float32; keep "
                    "the weights in float32 and compute under torch.autocast"
                )
        self._seen = _fingerprint(model)

    def refuse_if_changed(self) -> None:
        """Raise StateError when modules or requires_grad are no longer what the rules were made
        for: something could then learn unclipped, or not at all."""
        replaced = any("forward" in layer.module.__dict__ for layer in self.layers)
        if replaced or _fingerprint(self.model) != self._seen:
            raise StateError(
                "the model was changed after private training was set up (a layer or a forward "
                "replaced, a parameter frozen or thawed); set it up again"
            )

    @contextmanager
    def booking(self, book: Book) -> Iterator[None]:
        """Inside, the model's forward pass is made so that its backward pass fills `book`."""
        try:
            for layer in self.layers:
                layer.open(book)
                layer.module.forward = partial(_private_forward, layer, threading.get_ident())
            yield
        finally:
            for layer in self.layers:
                layer.open(None)
                layer.module.__dict__.pop("forward", None)


def _private_forward(layer: Layer, thread: int, *inputs: Any, **named: Any) -> Any:
    """The rule, for the thread whose step it is; another one may evaluate the model meanwhile."""
    if threading.get_ident() != thread:
        return layer.forward(*inputs, **named)
    return layer.rule(layer, *inputs, **named)


def _fingerprint(model: nn.Module) -> tuple[object, ...]:
    modules = tuple(id(module) for module in model.modules())
    return modules, tuple((id(p), p.requires_grad) for p in model.parameters())


def _layers(model: nn.Module, extra: Mapping[type[nn.Module], Rule]) -> list[Layer]:
    rules = {**RULES, **extra}
    owners: Counter[nn.Parameter] = Counter()
    found: list[Layer] = []
    served: set[type[nn.Module]] = set()
    inside: str | None = None  # a module served as a whole, children included
    for path, module in model.named_modules():
        if inside is not None and (path == inside or path.startswith(inside + ".") or not inside):
            continue
        inside = None
        base = _served_as(type(module), rules)
        whole = base is not None and rules[base] is by_vmap
        own = {n: p for n, p in module.named_parameters(recurse=whole) if p.requires_grad}
        if not own:
            continue
        rule = _rule_for(path, module, base, rules)
        if base is not None:
            served.add(base)
        inside = path if whole else None
        owners.update(own.values())
        found.append(Layer(path, module, len(found), rule, module.forward, own))
    if not found:
        raise ConfigError("the model has no trainable parameter; set requires_grad on some")
    for kind in extra.keys() - served:
        raise ConfigError(
            f"rules: no trainable module is a {kind.__name__} with its own forward; name the class "
            "of the module that the rule is for"
        )
    for layer in found:
        layer.tied = any(owners[p] > 1 for p in layer.parameters.values())
    return found


def _served_as(
    kind: type[nn.Module], rules: Mapping[type[nn.Module], Rule]
) -> type[nn.Module] | None:
    """The class whose rule serves `kind`: itself, or a base whose forward it kept."""
    for base in kind.__mro__:
        if base in rules and (base is kind or _computes_the_same(kind, base)):
            return base
    return None


def _rule_for(
    path: str,
    module: nn.Module,
    base: type[nn.Module] | None,
    rules: Mapping[type[nn.Module], Rule],
) -> Rule:
    where = f"module {path or '(model)'!r} ({type(module).__name__})"
    if "forward" in module.__dict__:
        raise ConfigError(
            f"{where}: its forward was replaced on the object itself, by another library or an "
            "unfinished step; private training needs the class's own"
        )
    if base is None:
        raise ConfigError(
            f"{where}: no rule for the gradients of its parameters; register one in `rules`, take "
            "`by_vmap` for it if its rows come first, or freeze it with requires_grad_(False)"
        )
    rule = rules[base]
    if rule is RULES.get(base) and rule is not by_vmap:
        _refuse_extra_parameters(where, module)
    return rule


def _refuse_extra_parameters(where: str, module: nn.Module) -> None:
    """Our own rules know `weight` and `bias`; weight norms and the like add others by hooks."""
    extra = [n for n, _ in module.named_parameters(recurse=False) if n not in {"weight", "bias"}]
    if extra:
        raise ConfigError(
            f"{where}: parameters {', '.join(extra)} beside weight and bias, which its rule does "
            "not know; register a rule for the class, or take what added them off"
        )


_COMPUTING = ("forward", "_conv_forward", "_output_padding", "standardised_weight", "__call__")


def _computes_the_same(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    return all(getattr(kind, n, None) is getattr(base, n, None) for n in _COMPUTING)
