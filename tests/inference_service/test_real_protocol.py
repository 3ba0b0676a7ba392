"""The real protocol over the real services gives what it gives in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from primia.infer.data_owner import DataOwner
from primia.infer.engine import REAL
from primia.wire.inference_handler import Terms
from tests.inference.pair import predict
from tests.inference.programs import random_weights, residual_program
from tests.inference_service.conftest import World


@pytest.mark.parametrize("stocked", [0, 1, 20])
@pytest.mark.parametrize("terms", [Terms(), Terms(profile="wan"), Terms(noise=0.5)], ids=str)
def test_a_film_is_answered_as_in_memory(tmp_path: Path, stocked: int, terms: Terms) -> None:
    world = World(tmp_path)
    world.terms = terms
    world.engine = REAL  # type: ignore[assignment]
    world.program = residual_program()
    world.weights = dict(random_weights(world.program))
    world.start_model()
    try:
        world.enrol("dealer", "dealer")
        world.start_dealer()
        world.restart_model()
        world.enrol("hospital")
        draw = np.random.default_rng(1)
        film = draw.normal(0, 1, (2, *world.program.input_shape)) * 2.0**16
        film = film.astype(np.int64)
        with DataOwner(tmp_path / "hospital", REAL) as owner:
            if stocked:
                assert owner.stock(stocked, films=2) == stocked  # of 20, one is opened and checked
            (found,) = owner.ask(film, batch=2)
        inside = predict(world.program, world.weights, film)
        off = np.abs(found.values - inside.values).max()
        assert (
            (off < 2e-3) if terms.noise == 0 else (2e-3 < off < 50)
        )  # other masks: other last bits
        assert found.mode == "logits"
    finally:
        for name in list(world.running):
            world.stop(name)
