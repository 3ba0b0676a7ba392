"""Label counts: certain from plain gradients, a guess under the plan's noise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.audit.labels import attack_labels, label_counts
from primia.audit.networks import first_network
from primia.errors import DataError
from primia.findings import Verdict, from_json, to_json
from tests.audit.scene import case


def nearest_counts(bias: np.ndarray, rows: int, probabilities: np.ndarray) -> list[np.ndarray]:
    """The plain reference: of all counts that add up to `rows` those nearest to what is wanted."""
    wanted = np.clip(rows * probabilities - bias, 0, None)
    wanted = wanted * rows / wanted.sum()
    choices = [np.array(c) for c in itertools.product(range(rows + 1), repeat=3) if sum(c) == rows]
    far = [((c - wanted) ** 2).sum() for c in choices]
    return [c for c, f in zip(choices, far, strict=True) if f <= min(far) + 1e-9]


@given(
    st.integers(1, 8),
    st.lists(st.floats(-6, 6), min_size=3, max_size=3),
    st.lists(st.floats(0.05, 1), min_size=3, max_size=3),
)
def test_counts_are_the_nearest_that_add_up(
    rows: int, bias: list[float], weights: list[float]
) -> None:
    probabilities = np.array(weights) / sum(weights)
    g = np.array(bias)
    if np.clip(rows * probabilities - g, 0, None).sum() == 0:
        return
    found = label_counts(g, rows, probabilities)
    assert found.sum() == rows
    assert any((found == c).all() for c in nearest_counts(g, rows, probabilities))


def test_labels_are_read_off_plain_gradients_and_guessed_under_the_noise_of_the_example() -> None:
    """Chance of a false alarm: 0.001, the verdict's own; the entropy is the system's. (At the
    smallest noise a worker accepts, 0.5, a trace of the labels is left, as ε says it may be.)"""
    made = case(noise_multiplier=1.406)
    finding = attack_labels(made, first_network(made.plan), trials=30)
    assert all(finding.figures[f"exact_plain_{size}"] == 1.0 for size in (1, 4, 16))
    assert finding.verdict is Verdict.HELD
    assert from_json(to_json(finding)) == finding
    clipped, plain = finding.figures["error_clipped_16"], finding.figures["error_plain_16"]
    assert isinstance(clipped, float)
    assert isinstance(plain, float)
    assert clipped > plain


def test_fewer_patients_than_a_step_has_are_refused() -> None:
    few = case(patients=15)
    with pytest.raises(DataError, match="16 patients"):
        attack_labels(few, first_network(few.plan), trials=10)
