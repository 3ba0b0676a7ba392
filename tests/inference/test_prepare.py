"""Networks become programs that answer as they did; what has no place is refused by name."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pair
import pytest
import torch
from torch import Tensor, nn

from primia.errors import ConfigError
from primia.inference.encoding import encode, normalise
from primia.inference.prepare import HEADROOM, Prepared
from primia.inference.program import Program
from primia.inference.reference import fixed
from primia.learning.vision import resnet18, resnet34, resnet50

TOLERANCE = 5e-3


def zoo(name: str, size: int, channels: int = 1, **options: bool) -> Callable[[], nn.Module]:
    return lambda: networks.zoo(name, size, channels, **options)


NETWORKS: dict[str, tuple[int, int, Callable[[], nn.Module]]] = {
    "small-cnn-28": (28, 1, zoo("small-cnn", 28)),
    "small-cnn-28-rgb": (28, 3, zoo("small-cnn", 28, 3)),
    "small-cnn-64": (64, 1, zoo("small-cnn", 64)),
    "small-cnn-standardised": (28, 1, zoo("small-cnn", 28, weight_standardisation=True)),
    "resnet18-gn": (28, 1, zoo("resnet18-gn", 28)),
    "resnet18-gn-scale-norm": (28, 1, zoo("resnet18-gn", 28, scale_norm=True)),
    "resnet18-gn-standardised": (28, 3, zoo("resnet18-gn", 28, 3, weight_standardisation=True)),
    "resnet18-gn-both": (
        28, 1, zoo("resnet18-gn", 28, scale_norm=True, weight_standardisation=True)
    ),
    "torchvision-resnet18": (32, 1, lambda: networks.torchvision_resnet(resnet18, 32)),
    "torchvision-resnet34": (32, 3, lambda: networks.torchvision_resnet(resnet34, 32, 3)),
    "torchvision-resnet50": (32, 1, lambda: networks.torchvision_resnet(resnet50, 32)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_answers_films_it_never_saw_as_the_network_in_float64(name: str) -> None:
    size, channels, make = NETWORKS[name]
    model = make()
    twin = copy.deepcopy(model)
    made = networks.prepared(model, networks.films(16, size), channels)
    pixels = networks.films(8, size, seed=9)
    expected = networks.logits(twin, pixels, channels)
    got = answer(made, pixels)
    assert np.abs(got - expected).max() <= TOLERANCE
    assert (got.argmax(1) == expected.argmax(1)).all()
    assert np.ptp(expected, 0).max() > 10 * TOLERANCE, "an answer that no film changes"


def answer(made: Prepared, pixels: Any) -> np.ndarray[Any, Any]:
    film = encode(made.program, pixels)
    return fixed(made.program, made.weights, film) / 2.0**made.program.fraction_bits


def kinds(program: Program) -> list[str]:
    return [node.op.kind for node in program.nodes]


@pytest.mark.parametrize("name", ["small-cnn-28", "resnet18-gn-both", "torchvision-resnet18"])
def test_both_parties_together_answer_as_the_network(name: str) -> None:
    size, channels, make = NETWORKS[name]
    model = make()
    made = networks.prepared(copy.deepcopy(model), networks.films(16, size), channels)
    pixels = networks.films(2, size, seed=9)
    expected = networks.logits(model, pixels, channels)
    got = pair.predict(made.program, made.weights, encode(made.program, pixels)).values
    assert np.abs(got - expected).max() <= TOLERANCE


def test_batch_norms_and_standardised_weights_leave_no_operation_behind() -> None:
    size, _, make = NETWORKS["torchvision-resnet18"]
    made = networks.prepared(make(), networks.films(16, size))
    assert kinds(made.program).count("conv2d") == 20
    assert not {"affine", "group-norm"} & set(kinds(made.program))


def test_maxima_are_taken_before_the_function_that_rises() -> None:
    for name in ("small-cnn-28", "resnet18-gn"):
        size, _, make = NETWORKS[name]
        program = networks.prepared(make(), networks.films(16, size)).program
        for node in program.nodes:
            if node.op.kind == "max-pool2d":
                assert program.nodes[node.inputs[0]].op.kind not in {"relu", "tanh"}


def test_bounds_are_powers_of_two_with_headroom_over_what_was_seen() -> None:
    made = networks.prepared(networks.zoo("small-cnn", 28), networks.films(16, 28))
    for node, largest in list(zip(made.program.nodes, made.largest, strict=True))[1:]:
        assert np.log2(node.bound).is_integer()
        assert node.bound >= HEADROOM * largest


def test_a_film_beyond_the_bound_is_held_there() -> None:
    program = networks.prepared(networks.zoo("small-cnn", 28), networks.films(16, 28)).program
    spot = np.zeros((1, 28, 28), np.uint8)
    spot[0, 5, 5] = 255
    assert np.abs(normalise(program, spot)).max() == program.nodes[0].bound
    with pytest.raises(ValueError, match="need uint8"):
        encode(program, np.zeros((1, 32, 32), np.uint8))


def test_films_are_normalised_as_the_network_was_trained() -> None:
    pixels = networks.films(16, 28)
    program = networks.prepared(networks.zoo("small-cnn", 28, 3), pixels, 3).program
    np.testing.assert_allclose(normalise(program, pixels), networks.inputs(pixels, 3))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    made = networks.prepared(
        networks.zoo("small-cnn", 28, 3), pixels, 3, normalisation="fixed", mean=mean, std=std
    )
    expected = (pixels[:, None] / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(
        std, (1, 3, 1, 1)
    )
    np.testing.assert_allclose(normalise(made.program, pixels), expected)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.sum() > 0:
            x = -x
        return x.flatten(1)


class Calls(nn.Module):
    """A convolution, then whatever is given, then a head."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2, 3)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.pool(self.call(self.first(x))).flatten(1))
        return out


def around(*layers: nn.Module) -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    return nn.Sequential(nn.Conv2d(1, 2, 3), *layers, *head)


def huge() -> nn.Module:
    model = around()
    with torch.no_grad():
        model[0].weight.fill_(10_000.0)
    return model


def spread() -> nn.Module:
    model = around(nn.ReLU())
    with torch.no_grad():
        model[0].weight.mul_(1e-5)
        model[0].bias.zero_()
        model[4].weight.fill_(30_000.0)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: around(nn.GELU()), r"layer 1 \(GELU\).*replace it"),
        (lambda: around(nn.MaxPool2d(3, ceil_mode=True)), r"layer 1 .*ceil_mode=False"),
        (lambda: around(nn.MaxPool2d(3, dilation=2)), r"layer 1 .*dilation=1"),
        (lambda: around(nn.MaxPool2d((3, 2))), r"layer 1 .*not square"),
        (lambda: around(nn.AdaptiveAvgPool2d(2)), r"layer 1 .*AdaptiveAvgPool2d\(1\)"),
        (lambda: around(nn.AvgPool2d(3, padding=1, count_include_pad=False)), "layer 1 .*defaults"),
        (lambda: around(nn.Conv2d(2, 2, 3, padding="same")), "layer 1 .*padding"),
        (lambda: around(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")), "layer 1 .*pad"),
        (lambda: around(nn.BatchNorm2d(2, track_running_stats=False)), "layer 1 .*statistics"),
        (lambda: around(nn.LayerNorm((26, 26))), "layer 1 .*normalises over"),
        (lambda: Calls(torch.sigmoid), "layer sigmoid: `sigmoid` is not among"),
        (lambda: Calls(lambda x: x * 2), "layer mul: `mul` is not among"),
        (lambda: Calls(lambda x: x + 1), "layer add: `add` is not among"),
        (lambda: Calls(lambda x: torch.add(x, x, alpha=2)), "layer add: `add` is not among"),
        (Branching, "cannot be traced after layer first.*without branches"),
        (huge, "layer (0|1): values up to .* too large for the ring.*put a norm"),
        (spread, "layer .*: fixed point is off .*fraction bits; put a norm"),
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 3)), "more than one row of logits"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 4)), "gives .* for 3 classes"),
        (lambda: nn.Sequential(nn.Linear(28, 3)), "layer 0: takes features"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_prepared_is_refused_with_layer_and_remedy(
    make: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        networks.prepared(make(), networks.films(16, 28))


def test_a_forward_that_changes_after_it_was_traced_is_found_out() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = around()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            out: Tensor = self.body(x)
            return out if self.calls == 1 else -out  # traced once, then otherwise

    with pytest.raises(ConfigError, match="answers otherwise than the network itself"):
        networks.prepared(Counting(), networks.films(16, 28))


def test_weights_that_are_not_finite_are_refused() -> None:
    model = around()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ConfigError, match="layer 0: values are not finite"):
        networks.prepared(model, networks.films(16, 28))


def test_too_few_films_say_nothing_about_ranges() -> None:
    with pytest.raises(ConfigError, match="15 films to calibrate on, need 16"):
        networks.prepared(around(), networks.films(15, 28))


def test_a_norm_of_tiny_values_keeps_its_precision() -> None:
    torch.manual_seed(0)
    model = around(nn.GroupNorm(1, 2, eps=1e-12), nn.ReLU())
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
        model[0].bias.zero_()
    twin = copy.deepcopy(model)
    made = networks.prepared(model, networks.films(16, 28))
    pixels = networks.films(6, 28, seed=3)
    assert np.abs(answer(made, pixels) - networks.logits(twin, pixels)).max() < 1e-3


def test_an_affine_that_no_product_can_take_stays_one() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2)
    norm.running_mean = torch.tensor([0.3, -0.2])
    norm.running_var = torch.tensor([2.0, 0.5])
    model = around(nn.ReLU(), norm)
    twin = copy.deepcopy(model)
    made = networks.prepared(model, networks.films(16, 28))
    assert kinds(made.program).count("affine") == 1
    pixels = networks.films(6, 28, seed=3)
    assert np.abs(answer(made, pixels) - networks.logits(twin, pixels)).max() < 1e-3


@pytest.mark.data
def test_real_films_get_the_class_of_the_network() -> None:
    data = Path(os.environ.get("PRIMIA_DATA", Path(__file__).parents[3] / "shared" / "data"))
    file = data / "kermany_cxr" / "kermany_64_dev.npz"
    if not file.exists():
        pytest.skip(f"{file} is not there; set PRIMIA_DATA")
    pixels = np.load(file, allow_pickle=False)["images"][::25][:48].astype(np.uint8)
    model = networks.zoo("small-cnn", 64)
    twin = copy.deepcopy(model)
    made = networks.prepared(model, pixels[:16])
    expected, got = networks.logits(twin, pixels[16:]), answer(made, pixels[16:])
    assert np.abs(got - expected).max() <= TOLERANCE
    assert (got.argmax(1) == expected.argmax(1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_resnet18_at_224_answers_as_in_float64(norm: str) -> None:
    model = (
        networks.torchvision_resnet(resnet18, 224)
        if norm == "batch"
        else networks.zoo("resnet18-gn", 224)
    )
    twin = copy.deepcopy(model)
    made = networks.prepared(model, networks.films(16, 224))
    pixels = networks.films(3, 224, seed=9)
    expected = networks.logits(twin, pixels)
    assert np.abs(answer(made, pixels) - expected).max() <= TOLERANCE
    got = pair.predict(made.program, made.weights, encode(made.program, pixels[:1])).values
    assert np.abs(got - expected[:1]).max() <= TOLERANCE
