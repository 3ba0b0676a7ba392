"""From a torch network to a graph of the closed list of operations, with weights in float64.

The network is traced (torch.fx) in evaluation mode. A module or call that is not on the list is
refused with its name: an operation that is silently left out would give plausible garbage.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from primia.errors import ConfigError
from primia.inference.operations import (
    Add,
    Affine,
    AvgPool2d,
    Conv2d,
    Flatten,
    GroupNorm,
    Input,
    Linear,
    MaxPool2d,
    Op,
    ReLU,
    Shape,
    Tanh,
)
from primia.learning.layers import WeightStandardisedConv2d

TO_BE_CALIBRATED = (2.0**-24, 2.0**40)
_SKIPPED = (nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass
class Layer:
    """A node that passes may still change; `inputs` are names."""

    name: str
    op: Op
    inputs: list[str]
    weight: Tensor | None = None  # float64
    bias: Tensor | None = None


@dataclass
class Graph:
    """Layers by name, in order of work; the last is the output."""

    layers: dict[str, Layer] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def add(self, layer: Layer) -> str:
        try:
            shape = layer.op.shape(*(self.shapes[i] for i in layer.inputs))
        except ValueError as err:
            raise ConfigError(f"layer {layer.name}: {err}; change the network or the film") from err
        self.layers[layer.name] = layer
        self.shapes[layer.name] = shape
        return layer.name

    def users(self, name: str) -> list[Layer]:
        return [layer for layer in self.layers.values() if name in layer.inputs]

    def rebuild(self, layers: list[Layer]) -> Graph:
        """The graph of `layers`, with shapes anew."""
        graph = Graph()
        for layer in layers:
            graph.add(layer)
        return graph


class _Tracer(fx.Tracer):
    """Stops at torch's own layers and at ours; remembers where it was, for messages."""

    at = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, WeightStandardisedConv2d)
        return ours or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self.at = self.path_of_module(m)
        return super().call_module(m, forward, args, kwargs)


def trace(model: nn.Module, shape: Shape) -> Graph:
    """The graph of `model`, which is put into evaluation mode, for a film of `shape`.

    Raises ConfigError naming the layer that has no place in encrypted prediction.
    """
    model.eval()
    tracer = _Tracer()
    try:
        traced = tracer.trace(model)
    except Exception as err:  # whatever a foreign forward raises while it is traced
        where = tracer.at or "its forward"
        raise ConfigError(
            f"the network cannot be traced after layer {where} ({str(err).splitlines()[0][:120]}); "
            "its forward must do the same for every film, without branches on values"
        ) from err
    graph = Graph()
    modules = dict(model.named_modules())
    names: dict[fx.Node, str] = {}
    for node in traced.nodes:
        if node.op == "placeholder":
            if names:
                raise ConfigError("the network takes more than one input; give it one, the film")
            names[node] = graph.add(Layer("film", Input(*shape), []))
        elif node.op == "output":
            return _ending_in(graph, node, names)
        else:
            names[node] = _translate(graph, node, names, modules)
    raise AssertionError("a trace ends with an output")


def _ending_in(graph: Graph, node: fx.Node, names: dict[fx.Node, str]) -> Graph:
    result = node.args[0]
    if not isinstance(result, fx.Node) or len(graph.shapes[names[result]]) != 1:
        raise ConfigError("the network gives more than one row of logits; return only the logits")
    used = {names[result]}
    for layer in reversed(list(graph.layers.values())):
        if layer.name in used:
            used |= set(layer.inputs)
    kept = [layer for layer in graph.layers.values() if layer.name in used]
    if kept[-1].name != names[result] or kept[0].name != "film":
        raise ConfigError("the logits do not depend on the film; check the network's forward")
    return graph.rebuild(kept)


def _translate(
    graph: Graph, node: fx.Node, names: dict[fx.Node, str], modules: dict[str, nn.Module]
) -> str:
    name = _free(graph, str(node.target) if node.op == "call_module" else node.name)
    inputs = [names[a] for a in node.all_input_nodes if a in names]
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, _SKIPPED):
            return inputs[0]
        return graph.add(_of_module(name, module, inputs, graph.shapes[inputs[0]]))
    op = _of_call(node, graph.shapes[inputs[0]]) if inputs else None
    if op is None:
        raise ConfigError(
            f"layer {name}: `{getattr(node.target, '__name__', node.target)}` is not among the "
            "operations of encrypted prediction (docs/inference.md lists them); use one of these"
        )
    if isinstance(op, Add):
        inputs = inputs if len(inputs) == 2 else inputs * 2  # x + x
    return graph.add(Layer(name, op, inputs))


def _free(graph: Graph, name: str) -> str:
    """A layer called twice is two nodes."""
    candidate, count = name, 2
    while candidate in graph.layers:
        candidate, count = f"{name}-{count}", count + 1
    return candidate


_ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_RELUS = {torch.relu, functional.relu, "relu", "relu_"}
_TANHS = {torch.tanh, functional.tanh, "tanh"}


def _of_call(node: fx.Node, shape: Shape) -> Op | None:
    target = node.target
    rest = (*node.args[1:], *node.kwargs.values())
    if target in _ADDS and len(node.args) == 2 and not node.kwargs:
        return Add() if isinstance(node.args[1], fx.Node) else None
    if target in _RELUS:
        return ReLU()
    if target in _TANHS and not rest:
        return Tanh()
    if target in {torch.flatten, "flatten"} and rest == (1,):
        return Flatten()
    if target is functional.adaptive_avg_pool2d and rest in {(1,), ((1, 1),)}:
        return _average_of_all(shape)
    return None


def _of_module(name: str, module: nn.Module, inputs: list[str], shape: Shape) -> Layer:
    where = f"layer {name} ({type(module).__name__})"
    try:
        return _layer(name, module, inputs, shape)
    except ValueError as err:
        raise ConfigError(f"{where}: {err}") from err


def _layer(name: str, module: nn.Module, inputs: list[str], shape: Shape) -> Layer:
    match module:
        case nn.Conv2d():
            weight = module.weight
            if isinstance(module, WeightStandardisedConv2d):
                weight = module.double().standardised_weight()
            return Layer(
                name, _conv(module), inputs, _f64(weight), _bias(module, module.out_channels)
            )
        case nn.Linear():
            bias = _bias(module, module.out_features)
            return Layer(name, Linear(module.out_features), inputs, _f64(module.weight), bias)
        case nn.modules.batchnorm._BatchNorm():
            return Layer(name, Affine(), inputs, *_batch_norm(module))
        case nn.GroupNorm():
            norm = GroupNorm(module.num_groups, module.eps, *TO_BE_CALIBRATED)
            return Layer(name, norm, inputs, *_gain(module, module.num_channels))
        case nn.LayerNorm():
            return Layer(name, *_layer_norm(module, inputs, shape))
        case nn.ReLU() | nn.Tanh() | nn.Flatten():
            return Layer(name, _plain(module), inputs)
        case nn.MaxPool2d() | nn.AvgPool2d() | nn.AdaptiveAvgPool2d():
            return Layer(name, _pool(module, shape), inputs)
        case _:
            raise ValueError(
                "is not among the layers of encrypted prediction (docs/inference.md lists them); "
                "replace it by one of these and train again"
            )


def _plain(module: nn.ReLU | nn.Tanh | nn.Flatten) -> Op:
    if isinstance(module, nn.Flatten):
        if (module.start_dim, module.end_dim) != (1, -1):
            raise ValueError("flattens other dimensions than all but the first; use nn.Flatten()")
        return Flatten()
    return ReLU() if isinstance(module, nn.ReLU) else Tanh()


def _conv(module: nn.Conv2d) -> Conv2d:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise ValueError("padding must be a number of zeros; give it as one")
    kernel, stride, padding, dilation = (
        _square(getattr(module, part), part)
        for part in ("kernel_size", "stride", "padding", "dilation")
    )
    return Conv2d(kernel, stride, padding, dilation, module.groups, module.out_channels)


def _pool(module: nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d, shape: Shape) -> Op:
    if isinstance(module, nn.AdaptiveAvgPool2d):
        if module.output_size not in (1, (1, 1)):
            raise ValueError("averages to more than one pixel; use AdaptiveAvgPool2d(1)")
        return _average_of_all(shape)
    kernel, stride, padding = (
        _square(getattr(module, part), part) for part in ("kernel_size", "stride", "padding")
    )
    if module.ceil_mode:
        raise ValueError("ceil_mode is not supported; use ceil_mode=False")
    if isinstance(module, nn.MaxPool2d):
        if _square(module.dilation, "dilation") != 1:
            raise ValueError("dilation is not supported; use dilation=1")
        return MaxPool2d(kernel, stride, padding)
    if module.divisor_override is not None or (padding and not module.count_include_pad):
        raise ValueError("divides by other than the kernel's size; use the defaults")
    return AvgPool2d(kernel, stride, padding)


def _average_of_all(shape: Shape) -> AvgPool2d:
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ConfigError(f"an average over {shape} needs a square film; use one")
    return AvgPool2d(shape[1], 1, 0)


def _square(value: Any, part: str) -> int:
    values = set(value) if isinstance(value, tuple) else {value}
    if len(values) != 1:
        raise ValueError(f"{part} {value} is not square; use one number")
    return int(values.pop())


def _layer_norm(module: nn.LayerNorm, inputs: list[str], shape: Shape) -> tuple[Any, ...]:
    if tuple(module.normalized_shape) != shape:
        raise ValueError(
            f"normalises over {tuple(module.normalized_shape)} of {shape}, not over all"
        )
    weight, bias = _gain(module, shape)
    if len(shape) == 3:
        gains = [g.flatten(1) for g in (weight, bias)]
        if not all(torch.equal(g, g[:, :1].expand_as(g)) for g in gains):
            raise ValueError("has a weight for each pixel; use GroupNorm(1, channels) instead")
        weight, bias = gains[0][:, 0], gains[1][:, 0]
    return GroupNorm(1, module.eps, *TO_BE_CALIBRATED), inputs, weight, bias


def _batch_norm(module: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    if module.running_mean is None or module.running_var is None:
        raise ValueError("has no running statistics; train with track_running_stats=True")
    gain, bias = _gain(module, module.num_features)
    weight = gain / (_f64(module.running_var) + module.eps).sqrt()
    return weight, bias - _f64(module.running_mean) * weight


def _gain(module: Any, shape: int | Shape) -> tuple[Tensor, Tensor]:
    full = (shape,) if isinstance(shape, int) else shape
    weight = torch.ones(full) if module.weight is None else module.weight
    bias = torch.zeros(full) if module.bias is None else module.bias
    return _f64(weight), _f64(bias)


def _bias(module: nn.Conv2d | nn.Linear, out: int) -> Tensor:
    return torch.zeros(out, dtype=torch.float64) if module.bias is None else _f64(module.bias)


def _f64(value: Tensor) -> Tensor:
    return value.detach().cpu().double().clone()
