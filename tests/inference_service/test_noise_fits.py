"""Noise on the answer that the protocol has no room for is refused before anything is served."""

from __future__ import annotations

from dataclasses import replace

import pytest

from primia.errors import ConfigError
from primia.infer.model import check_noise
from tests.inference_service import toy


def test_noise_has_to_fit_the_bound_of_the_logits() -> None:
    program = toy.program()
    check_noise(program, 0.0)
    check_noise(program, 1000 / 8)
    with pytest.raises(ConfigError, match="choose that or less"):
        check_noise(program, 1000 / 7)


def test_noise_needs_a_linear_layer_at_the_end() -> None:
    program = toy.program()
    names = tuple(f"class-{i}" for i in range(toy.SIDE**2))
    cut = replace(program, nodes=program.nodes[:-1], classes=names)
    check_noise(cut, 0.0)
    with pytest.raises(ConfigError, match="this program ends in flat"):
        check_noise(cut, 0.1)
