"""One value taken by two layers with clear weights, at different widths."""

from __future__ import annotations

import numpy as np
import pytest

from primia.inference import reference
from primia.inference.correlations import Corrections
from primia.inference.dealing import deal
from primia.inference.operations import Add, Affine, AvgPool2d, Conv2d, Flatten, Input, Linear
from primia.inference.parties import data_party, model_party, prepare_products
from primia.inference.ring import decode
from primia.inference.weighted import mask_weights
from tests.inference.pair import drive, predict, seeds
from tests.inference.programs import program_of, random_weights


@pytest.mark.parametrize("affine_first", [True, False])
def test_a_value_that_one_layer_takes_wide_and_another_narrow_gives_the_models_answer(
    affine_first: bool,
) -> None:
    takers = [(Affine(), (1,)), (Conv2d(1, 1, 0, 1, 1, 2), (1,))]
    program = program_of(
        [
            (Input(1, 8, 8), ()),
            (Conv2d(3, 1, 1, 1, 1, 2), (0,)),
            *(takers if affine_first else takers[::-1]),
            (Add(), (2, 3)),
            (AvgPool2d(8, 1, 0), (4,)),
            (Flatten(), (5,)),
            (Linear(3), (6,)),
        ]
    )
    weights = random_weights(program)
    film = np.rint(np.random.default_rng(1).normal(0, 1, (1, 1, 8, 8)) * 65536).astype(np.int64)
    found = predict(program, weights, film).values
    wanted = decode(reference.fixed(program, weights, film), program.fraction_bits)
    assert np.abs(found - wanted).max() < 1e-2

    mask_seed, seed0, seed1 = seeds(0)
    given = dict(mask_weights(program, weights, mask_seed))
    ready = Corrections(prepare_products(program, given, seed0))
    dealt = Corrections(deal(program, mask_seed, seed0, seed1))
    run = drive(
        data_party(program, given, seed0, film, ready),
        model_party(program, weights, dealt, seed1),
    )
    assert np.array_equal(run.results[0].values, found)
