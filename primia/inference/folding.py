"""Rewrites that leave a network's answer as it is and make it cheaper to compute in shares."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from primia.inference.operations import Affine, Conv2d, GroupNorm, Linear, MaxPool2d, ReLU, Tanh
from primia.inference.tracing import Graph, Layer


def simplify(graph: Graph) -> Graph:
    """Batch norms go into the product before them; maxima are taken before ReLU and tanh.

    Both functions rise, so the maximum may come first, and then a quarter as many of them are
    computed for the usual pooling.
    """
    return _max_first(_fold_affine(graph))


def scale_before_norm(graph: Graph, norm: Layer, deviation: float) -> float:
    """Bring what a GroupNorm takes to a deviation of 1 to 2, where only a product gives it.

    deviation: the typical one now. The norm takes the factor out again, with eps scaled along;
    without it the variance of small values would be a few units in the last place. Returns the
    factor, a power of two, 1 where nothing was changed.
    """
    source = graph.layers[norm.inputs[0]]
    exact = isinstance(source.op, Conv2d | Linear) and graph.users(source.name) == [norm]
    if not exact or deviation <= 0:
        return 1.0
    factor = 2.0 ** max(-20, min(20, -math.floor(math.log2(deviation))))
    source.weight, source.bias = _tensor(source.weight) * factor, _tensor(source.bias) * factor
    assert isinstance(norm.op, GroupNorm)
    norm.op = replace(norm.op, eps=norm.op.eps * factor**2)
    return factor


def _fold_affine(graph: Graph) -> Graph:
    for affine in list(graph.layers.values()):
        if not isinstance(affine.op, Affine):
            continue
        source = graph.layers[affine.inputs[0]]
        products = isinstance(source.op, Conv2d | Linear | Affine)
        if not products or graph.users(source.name) != [affine]:
            continue
        gain, weight = _tensor(affine.weight), _tensor(source.weight)
        source.weight = weight * gain.reshape(-1, *([1] * (weight.dim() - 1)))
        source.bias = _tensor(source.bias) * gain + _tensor(affine.bias)
        for user in graph.users(affine.name):
            user.inputs = [source.name if n == affine.name else n for n in user.inputs]
        del graph.layers[affine.name]
    return graph.rebuild(list(graph.layers.values()))


def _max_first(graph: Graph) -> Graph:
    layers = list(graph.layers.values())
    for pool in list(layers):
        function = graph.layers[pool.inputs[0]] if pool.inputs else pool
        if (
            isinstance(pool.op, MaxPool2d)
            and isinstance(function.op, ReLU | Tanh)
            and graph.users(function.name) == [pool]
        ):
            for user in graph.users(pool.name):
                user.inputs = [function.name if n == pool.name else n for n in user.inputs]
            pool.inputs, function.inputs = function.inputs, [pool.name]
            layers.remove(function)
            layers.insert(layers.index(pool) + 1, function)
    return graph.rebuild(layers)


def _tensor(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
