"""Small, seeded things to train on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from seeded_stream import seeded_entropy

from primia.config.plan import ModelTerms
from primia.imaging.dataset import Films
from primia.learning.terms import LocalTerms, Privacy


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def entropy():
    return seeded_entropy(20250101)


@pytest.fixture(scope="session")
def films() -> Films:
    """60 patients with 1 to 3 films of 28 px; class 1 has a bright patch at a random place."""
    rng = np.random.default_rng(7)
    patients = np.repeat(np.arange(60), rng.integers(1, 4, 60))
    labels = (patients % 2).astype(np.int64)
    pixels = rng.integers(60, 140, (patients.size, 28, 28))
    for film, label in zip(pixels, labels, strict=True):
        if label:
            y, x = rng.integers(2, 16, 2)
            film[y : y + 10, x : x + 10] += 90
    return Films(pixels.astype(np.uint8), labels, patients.astype(np.int64))


@pytest.fixture
def terms() -> LocalTerms:
    return LocalTerms(
        model=ModelTerms(name="small-cnn", input_size=28, classes=("no", "yes")),
        sampling_rate=0.5,
        local_steps=3,
        expected_patients=30,
        max_films_per_patient=4,
        learning_rate=0.2,
        momentum=0.5,
        privacy=Privacy(clip_norm=1.0, noise_multiplier=1.0),
    )
