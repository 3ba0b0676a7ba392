"""The closed list of operations a program may hold: what each needs, what shape it gives.

A film's value is (channels, height, width), or (features,) after Flatten; there is no batch here.
Convolutions and pools are square. Weights are named `weight` and `bias` under the node's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

Shape = tuple[int, ...]

MAX_CHANNELS = 1 << 14
MAX_SIDE = 1 << 11  # pixels, also of a kernel, stride or padding
MAX_ELEMENTS = 1 << 24  # of one value of one film, 128 MiB in the ring
MAX_WEIGHTS = 1 << 26  # of one node


@dataclass(frozen=True)
class Input:
    """The normalised film."""

    kind: ClassVar[str] = "input"
    arity: ClassVar[int] = 0
    channels: int
    height: int
    width: int

    def shape(self) -> Shape:
        _between("channels", self.channels, 1, MAX_CHANNELS)
        _between("height", self.height, 1, MAX_SIDE)
        _between("width", self.width, 1, MAX_SIDE)
        return (self.channels, self.height, self.width)

    def weights(self) -> dict[str, Shape]:
        return {}


@dataclass(frozen=True)
class Conv2d:
    """Cross-correlation with zero padding, as torch.nn.Conv2d; always with a bias."""

    kind: ClassVar[str] = "conv2d"
    arity: ClassVar[int] = 1
    kernel: int
    stride: int
    padding: int
    dilation: int
    groups: int
    out: int

    def shape(self, x: Shape) -> Shape:
        channels, height, width = _image(x)
        _between("out", self.out, 1, MAX_CHANNELS)
        _between("groups", self.groups, 1, MAX_CHANNELS)
        if channels % self.groups or self.out % self.groups:
            raise ValueError(f"{self.groups} groups divide neither {channels} nor {self.out}")
        _between("dilation", self.dilation, 1, MAX_SIDE)
        _between("kernel", self.kernel, 1, MAX_SIDE)
        span = self.dilation * (self.kernel - 1) + 1
        side = [_side(n, span, self.stride, self.padding) for n in (height, width)]
        return (self.out, side[0], side[1])

    def weights(self, x: Shape) -> dict[str, Shape]:
        return {
            "weight": (self.out, x[0] // self.groups, self.kernel, self.kernel),
            "bias": (self.out,),
        }


@dataclass(frozen=True)
class Linear:
    """A matrix product with a bias."""

    kind: ClassVar[str] = "linear"
    arity: ClassVar[int] = 1
    out: int

    def shape(self, x: Shape) -> Shape:
        if len(x) != 1:
            raise ValueError(f"takes features, not {x}; put Flatten before it")
        _between("out", self.out, 1, MAX_CHANNELS)
        return (self.out,)

    def weights(self, x: Shape) -> dict[str, Shape]:
        return {"weight": (self.out, x[0]), "bias": (self.out,)}


@dataclass(frozen=True)
class _Elementwise:
    arity: ClassVar[int] = 1

    def shape(self, x: Shape) -> Shape:
        return x

    def weights(self, x: Shape) -> dict[str, Shape]:  # noqa: ARG002
        return {}


@dataclass(frozen=True)
class ReLU(_Elementwise):
    kind: ClassVar[str] = "relu"


@dataclass(frozen=True)
class Tanh(_Elementwise):
    kind: ClassVar[str] = "tanh"


@dataclass(frozen=True)
class _Pool:
    arity: ClassVar[int] = 1
    kernel: int
    stride: int
    padding: int

    def shape(self, x: Shape) -> Shape:
        channels, height, width = _image(x)
        _between("kernel", self.kernel, 1, MAX_SIDE)
        if self.padding * 2 > self.kernel:
            raise ValueError(f"padding {self.padding} is over half of the kernel {self.kernel}")
        side = [_side(n, self.kernel, self.stride, self.padding) for n in (height, width)]
        return (channels, side[0], side[1])

    def weights(self, x: Shape) -> dict[str, Shape]:  # noqa: ARG002
        return {}


@dataclass(frozen=True)
class MaxPool2d(_Pool):
    """The largest value under the window; what lies in the padding never is."""

    kind: ClassVar[str] = "max-pool2d"


@dataclass(frozen=True)
class AvgPool2d(_Pool):
    """The sum under the window over kernel squared: padding counts, as zeros."""

    kind: ClassVar[str] = "avg-pool2d"


@dataclass(frozen=True)
class Add:
    """The sum of two values of one shape."""

    kind: ClassVar[str] = "add"
    arity: ClassVar[int] = 2

    def shape(self, x: Shape, y: Shape) -> Shape:
        if x != y:
            raise ValueError(f"cannot add {x} and {y}")
        return x

    def weights(self, x: Shape, y: Shape) -> dict[str, Shape]:  # noqa: ARG002
        return {}


@dataclass(frozen=True)
class GroupNorm:
    """(x - mean) / sqrt(variance + eps) over each group of channels, times weight, plus bias.

    low, high: where variance + eps lies, calibrated with headroom; the inverse root is
    approximated in this range and held at its ends outside. Features are channels of one pixel.
    """

    kind: ClassVar[str] = "group-norm"
    arity: ClassVar[int] = 1
    groups: int
    eps: float
    low: float
    high: float

    def shape(self, x: Shape) -> Shape:
        _between("groups", self.groups, 1, MAX_CHANNELS)
        if x[0] % self.groups:
            raise ValueError(f"{self.groups} groups do not divide {x[0]} channels")
        if not 0 <= self.eps <= 1:
            raise ValueError(f"eps {self.eps} is not from 0 to 1")
        if not 2.0**-24 <= self.low < self.high <= 2.0**40:
            raise ValueError(f"variance from {self.low} to {self.high}: need 2^-24 < 2^40")
        return x

    def weights(self, x: Shape) -> dict[str, Shape]:
        return {"weight": (x[0],), "bias": (x[0],)}


@dataclass(frozen=True)
class Affine:
    """x times weight plus bias, for each channel: a batch norm that no convolution could take."""

    kind: ClassVar[str] = "affine"
    arity: ClassVar[int] = 1

    def shape(self, x: Shape) -> Shape:
        return x

    def weights(self, x: Shape) -> dict[str, Shape]:
        return {"weight": (x[0],), "bias": (x[0],)}


@dataclass(frozen=True)
class Flatten(_Elementwise):
    kind: ClassVar[str] = "flatten"

    def shape(self, x: Shape) -> Shape:
        count = 1
        for side in x:
            count *= side
        return (count,)


Op = (
    Input
    | Conv2d
    | Linear
    | ReLU
    | Tanh
    | MaxPool2d
    | AvgPool2d
    | Add
    | GroupNorm
    | Affine
    | Flatten
)
OPS: dict[str, type[Op]] = {
    op.kind: op
    for op in (
        Input,
        Conv2d,
        Linear,
        ReLU,
        Tanh,
        MaxPool2d,
        AvgPool2d,
        Add,
        GroupNorm,
        Affine,
        Flatten,
    )
}


def _between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} {value} is not from {low} to {high}")


def _image(x: Shape) -> tuple[int, int, int]:
    if len(x) != 3:
        raise ValueError(f"takes channels, height and width, not {x}")
    return x[0], x[1], x[2]


def _side(length: int, span: int, stride: int, padding: int) -> int:
    _between("stride", stride, 1, MAX_SIDE)
    _between("padding", padding, 0, MAX_SIDE)
    side = (length + 2 * padding - span) // stride + 1
    if side < 1:
        raise ValueError(f"a window of {span} does not fit {length} pixels with padding {padding}")
    return side
