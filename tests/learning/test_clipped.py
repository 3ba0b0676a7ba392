import math

import pytest
import torch
from torch import nn

from primia.errors import ConfigError
from primia.learning.clipped import PerUnitClipping
from primia.learning.clipping import Flat
from primia.learning.engine import Method, table


def loss(outputs, targets):
    return (outputs.sum(1) - targets).square()


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def test_gradients_come_in_the_order_shape_and_precision_of_the_models_parameters():
    for dtype in (torch.float32, torch.float64):
        net = model().to(dtype)
        clipped = PerUnitClipping(net)
        found = clipped.sum(Flat(1.0), loss, torch.randn(5, 4, dtype=dtype), torch.zeros(5))
        assert [p is q for p, q in zip(clipped.parameters, net.parameters(), strict=True)]
        for gradient, parameter in zip(found.gradients, net.parameters(), strict=True):
            assert (gradient.shape, gradient.dtype) == (parameter.shape, dtype)


def test_units_that_need_no_clipping_are_counted_over_all_physical_batches():
    net = nn.Sequential(nn.Linear(1, 1, bias=False))
    x = torch.tensor([[0.5], [3.0], [0.9], [2.0], [math.nan], [0.1]])
    for physical in (1, 2, 4, 64):
        clipped = PerUnitClipping(net, physical_batch=physical)
        found = clipped.sum(Flat(1.0), lambda o, t: o[:, 0], x, torch.zeros(6))
        assert (found.units, found.within, found.dropped) == (6, 3, 1)
        # Gradients are the films themselves: three short ones, and two cut to the bound.
        assert float(found.gradients[0]) == pytest.approx(0.5 + 0.9 + 0.1 + 2 * 0.999, rel=1e-5)


def test_a_unit_counts_with_the_mean_of_its_rows():
    net = nn.Sequential(nn.Linear(1, 1, bias=False))
    x, unit = torch.tensor([[1.0], [4.0], [7.0]]), torch.tensor([8, 3, 8])
    found = PerUnitClipping(net).sum(Flat(1e6), lambda o, t: o[:, 0], x, torch.zeros(3), unit)
    assert found.units == 2
    assert float(found.gradients[0]) == pytest.approx((1 + 7) / 2 + 4)


def test_rows_are_prepared_a_physical_batch_at_a_time():
    sizes = []

    def prepare(rows):
        sizes.append(len(rows))
        return rows.float() / 255

    net = model()
    stored = torch.randint(0, 256, (10, 4), dtype=torch.uint8)
    clipped = PerUnitClipping(net, physical_batch=4, prepare=prepare)
    found = clipped.sum(Flat(0.1), loss, stored, torch.zeros(10)).gradients
    assert sizes == [1, 4, 4, 2]  # one row to find what fits
    expected = PerUnitClipping(net).sum(Flat(0.1), loss, stored.float() / 255, torch.zeros(10))
    assert all(
        torch.allclose(a, b, rtol=1e-5) for a, b in zip(found, expected.gradients, strict=True)
    )


@pytest.mark.parametrize("physical", [0, -3])
def test_a_physical_batch_below_one_is_refused(physical):
    with pytest.raises(ConfigError, match=r"physical_batch.*at least 1"):
        PerUnitClipping(model(), physical_batch=physical)


@pytest.mark.parametrize(
    ("inputs", "targets", "units"), [(5, 4, 5), (4, 5, 5), (5, 5, 4), (0, 0, 1)]
)
def test_inputs_targets_and_units_of_different_length_are_refused(inputs, targets, units):
    with pytest.raises(ConfigError, match=f"{inputs} inputs, {targets} targets, {units} units"):
        PerUnitClipping(model()).sum(
            Flat(1.0), loss, torch.randn(inputs, 4), torch.zeros(targets), torch.arange(units)
        )


def test_explain_says_how_each_layer_was_clipped_in_the_last_pass():
    net = model()
    clipped = PerUnitClipping(net, methods={"2": Method.PER_SAMPLE})
    assert clipped.explain() == []
    clipped.sum(Flat(1.0), loss, torch.randn(5, 4), torch.zeros(5))
    choices = {choice.path: choice for choice in clipped.explain()}
    assert list(choices) == ["0", "2"]
    assert choices["2"].method is Method.PER_SAMPLE
    assert choices["2"].reason == "asked for"
    assert (choices["0"].kind, choices["0"].weights) == ("Linear", 15)
    lines = table(clipped.explain()).splitlines()
    assert len(lines) == 3
    assert "per-sample" in lines[2]


def test_the_physical_batch_found_by_itself_is_kept_and_draws_nothing_from_the_generator():
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2))
    clipped = PerUnitClipping(net)
    before = torch.get_rng_state()
    clipped.sum(Flat(1.0), loss, torch.randn(0, 4), torch.zeros(0))
    assert clipped.physical_batch is None
    torch.set_rng_state(before)
    x = torch.ones(5, 4)
    one = clipped.sum(Flat(1.0), loss, x, torch.zeros(5)).gradients
    assert clipped.physical_batch is not None
    torch.set_rng_state(before)
    other = clipped.sum(Flat(1.0), loss, x, torch.zeros(5)).gradients
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def dominated(norms, *, physical=64, bound=1.0):
    """Of units whose gradients have these norms, before clipping."""
    x = torch.tensor(norms)[:, None]
    clipped = PerUnitClipping(nn.Sequential(nn.Linear(1, 1, bias=False)), physical_batch=physical)
    return clipped.sum(Flat(bound), lambda o, _: o[:, 0], x, torch.zeros(len(norms)))


@pytest.mark.parametrize("physical", [1, 3, 64])
def test_a_unit_longer_than_all_others_added_dominates_the_clipped_sum(physical):
    assert dominated([300.0, *[0.1] * 9], physical=physical).is_dominated
    assert dominated([0.1] * 9 + [0.95], physical=physical).is_dominated
    assert not dominated([300.0, *[0.2] * 9], physical=physical).is_dominated  # 1 against 1.8
    assert not dominated([300.0, 300.0, *[0.0] * 8], physical=physical).is_dominated  # two alike
    assert not dominated([0.0] * 10, physical=physical).is_dominated


def test_clipped_norms_decide_who_dominates_and_broken_units_count_for_nothing():
    found = dominated([300.0, math.nan, *[0.05] * 8], bound=1.0)
    assert found.is_dominated
    assert found.longest == pytest.approx(1.0, abs=2e-3)
    assert found.together == pytest.approx(1.4, abs=2e-3)
    assert not dominated([300.0, *[0.05] * 8], bound=0.3).is_dominated


def test_of_few_units_nobody_is_said_to_dominate():
    assert not dominated([1.0]).is_dominated
    assert not dominated([1.0, *[0.0] * 6]).is_dominated
    assert dominated([1.0, *[0.0] * 7]).is_dominated
