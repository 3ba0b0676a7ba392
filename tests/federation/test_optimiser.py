"""Server optimisers against the paper's equations, and checkpoints that cannot be misread."""

from __future__ import annotations

import numpy as np
import pytest

from primia.errors import PeerError, StateError
from primia.federation.optimiser import (
    FedAdam,
    FedAvg,
    ServerState,
    pack_state,
    pack_weights,
    step,
    unpack_state,
    unpack_weights,
)


def test_fedavg_with_rate_one_adds_the_mean_update() -> None:
    state = ServerState.start(np.array([1.0, 2.0], np.float32), FedAvg())
    after = step(state, np.array([0.5, -1.0]), FedAvg())
    assert after.weights.tolist() == [1.5, 1.0]
    assert state.weights.tolist() == [1.0, 2.0]  # pure


def test_momentum_is_that_of_hsu_et_al() -> None:
    terms = FedAvg(learning_rate=0.5, momentum=0.9)
    state, weights, v = ServerState.start(np.array([1.0], np.float32), terms), 1.0, 0.0
    for delta in (0.5, -0.2, 0.3):
        v = 0.9 * v + delta
        weights += 0.5 * v
        state = step(state, np.array([delta]), terms)
    assert state.weights[0] == pytest.approx(weights, rel=1e-6)
    resumed = step(unpack_state(pack_state(state)), np.array([0.1]), terms)
    assert resumed.weights[0] == pytest.approx(weights + 0.5 * (0.9 * v + 0.1), rel=1e-6)


def test_fedadam_follows_algorithm_2_of_reddi_et_al() -> None:
    terms = FedAdam(learning_rate=0.1, beta1=0.9, beta2=0.99, tau=1e-3)
    weights, m, v = 1.0, 0.0, 1e-6
    state = ServerState.start(np.array([weights], np.float32), terms)
    for delta in (0.5, -0.2, 0.3):
        m = 0.9 * m + 0.1 * delta
        v = 0.99 * v + 0.01 * delta**2
        weights += 0.1 * m / (v**0.5 + 1e-3)
        state = step(state, np.array([delta]), terms)
    assert state.weights[0] == pytest.approx(weights, rel=1e-5)
    assert state.second_moment[0] == pytest.approx(v, rel=1e-5)


def test_a_checkpoint_comes_back_bit_for_bit() -> None:
    rng = np.random.default_rng(1)
    state = ServerState(*(rng.normal(size=50).astype(np.float32) for _ in range(3)))
    again = unpack_state(pack_state(state))
    assert np.array_equal(again.weights, state.weights)
    assert np.array_equal(again.second_moment, state.second_moment)


def test_a_model_of_another_shape_or_with_nan_is_refused() -> None:
    weights = np.arange(4, dtype=np.float32)
    assert np.array_equal(unpack_weights(pack_weights(weights), 4), weights)
    with pytest.raises(PeerError, match="the plan's has"):
        unpack_weights(pack_weights(weights), 5)
    with pytest.raises(PeerError, match="finite"):
        unpack_weights(pack_weights(np.array([np.nan], np.float32)), 1)
    with pytest.raises(PeerError, match="cannot be read"):
        unpack_weights(b"\xff" * 100, 4)


def test_a_damaged_checkpoint_is_named() -> None:
    with pytest.raises(StateError, match="damaged"):
        unpack_state(b"\0" * 64)
