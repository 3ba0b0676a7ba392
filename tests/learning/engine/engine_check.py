"""Compare the engine with the loop of `reference`, whatever the model."""

from __future__ import annotations

import copy

import torch
from reference import loop_sum, relative_error, unit_gradients

from primia.learning.clipped import ClippedSum, PerUnitClipping
from primia.learning.clipping import CLIP_MARGIN, Flat

UNEQUAL = torch.tensor([5, 0, 5, 9, 0, 5, 3, 9])
"""Units of 2, 1, 3 and 2 rows that do not lie side by side, as ids that are not 0, 1, 2."""

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}


def wave(outputs, targets):
    """A loss of each row with a gradient that a normalisation does not cancel."""
    flat = outputs.flatten(1)
    steps = torch.arange(flat.shape[1], device=flat.device) % 7 + 1
    return (flat.sin() * steps.to(flat)).mean(1)


def l2(tensors):
    return float(torch.stack([t.detach().double().square().sum() for t in tensors]).sum().sqrt())


def exactly(model, x):
    """The model and its input in float64 and in the plain memory format, to run the loop on."""
    model = copy.deepcopy(model).double()
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    return model, x.double().contiguous() if x.is_floating_point() else x


def exact_norms(model, loss, x, targets, unit):
    """Each unit's gradient norm by the loop in float64, in the order of the units' ids."""
    model, x = exactly(model, x)
    return [l2(g) for g in unit_gradients(model, loss, x, targets, unit).values()]


def assert_equals_the_loop(
    model, x, *, targets=None, loss=wave, unit=None, tolerance=None, **engine
) -> tuple[PerUnitClipping, ClippedSum]:
    """Clip at the median norm, and compare with the loop in float64."""
    targets = torch.zeros(len(x)) if targets is None else targets
    unit = torch.arange(len(x)) if unit is None else unit
    precision = next(model.parameters()).dtype
    exact, exact_x = exactly(model, x)
    norms = exact_norms(model, loss, x, targets, unit)
    clip_norm = sorted(norms)[(len(norms) - 1) // 2]  # about half of the units are clipped
    assert clip_norm > 0, "a case without gradients shows nothing"
    clipped = PerUnitClipping(model, **engine)
    found = clipped.sum(Flat(clip_norm), loss, x, targets, unit)
    expected = loop_sum(exact, loss, exact_x, targets, unit, clip_norm)
    error = relative_error([g.detach() for g in found.gradients], expected)
    assert error < (tolerance or TOLERANCE[precision]), f"relative error {error:.1e}"
    assert found.units == len(norms)
    assert found.dropped == 0
    within = [
        sum(n < clip_norm * (1 - CLIP_MARGIN) * near for n in norms) for near in (0.999, 1.001)
    ]
    assert within[0] <= found.within <= within[1]
    return clipped, found


def assert_equals_in_both_precisions(make, x, **engine):
    """float64 to 1e-9 and float32 to 1e-5, units of several rows in both."""
    for dtype, unit in ((torch.float64, None), (torch.float64, UNEQUAL), (torch.float32, UNEQUAL)):
        torch.manual_seed(3)
        model = make().to(dtype)
        cast = x.to(dtype) if x.is_floating_point() else x
        assert_equals_the_loop(model, cast, unit=unit, **engine)
