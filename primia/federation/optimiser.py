"""Server optimisers as pure steps: (state, mean update) → state.

FedAvg with a server learning rate and FedAdam, both as in Reddi et al., "Adaptive Federated
Optimization", ICLR 2021, Algorithm 2; FedAvg's momentum as in Hsu, Qi, Brown 2019 (FedAvgM, arXiv
1909.06335). The mean update is a pseudo-gradient that points downhill.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from primia.errors import PeerError, StateError

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FedAvg:
    """v ← momentum · v + mean update; weights + learning_rate · v."""

    learning_rate: float = 1.0
    momentum: float = 0.0


@dataclass(frozen=True)
class FedAdam:
    """Adam on the mean update, with the paper's adaptivity `tau` and no bias correction."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


@dataclass(frozen=True)
class ServerState:
    """Weights and moments, each of shape (parameters,), float32."""

    weights: Vector
    first_moment: Vector
    second_moment: Vector

    @classmethod
    def start(cls, weights: Vector, optimiser: FedAvg | FedAdam) -> ServerState:
        """State before the first round; the second moment starts at tau² (Reddi et al., §2)."""
        tau = optimiser.tau if isinstance(optimiser, FedAdam) else 0.0
        second = np.full_like(weights, tau**2)
        return cls(weights.astype(np.float32), np.zeros_like(weights), second)


def step(
    state: ServerState, mean_update: npt.NDArray[np.float64], optimiser: FedAvg | FedAdam
) -> ServerState:
    """The next state; the old one is left as it was."""
    weights = state.weights.astype(np.float64)
    if isinstance(optimiser, FedAvg):
        first = optimiser.momentum * state.first_moment + mean_update
        weights = weights + optimiser.learning_rate * first
        return ServerState(
            weights.astype(np.float32), first.astype(np.float32), state.second_moment
        )
    first = optimiser.beta1 * state.first_moment + (1 - optimiser.beta1) * mean_update
    second = optimiser.beta2 * state.second_moment + (1 - optimiser.beta2) * mean_update**2
    weights = weights + optimiser.learning_rate * first / (np.sqrt(second) + optimiser.tau)
    return ServerState(*(v.astype(np.float32) for v in (weights, first, second)))


def pack_state(state: ServerState) -> bytes:
    """A checkpoint as safetensors bytes."""
    return save(
        {
            "weights": state.weights,
            "first_moment": state.first_moment,
            "second_moment": state.second_moment,
        }
    )


def unpack_state(data: bytes) -> ServerState:
    """Read a checkpoint. Raises StateError when it is not one."""
    try:
        tensors = load(data)
        return ServerState(tensors["weights"], tensors["first_moment"], tensors["second_moment"])
    except (SafetensorError, KeyError) as err:
        raise StateError(f"checkpoint is damaged ({err}); restore the state folder") from err


def pack_weights(weights: Vector) -> bytes:
    """A global model as it goes to the sites: one flat tensor, names and shapes from the plan."""
    return save({"weights": np.ascontiguousarray(weights, dtype=np.float32)})


def unpack_weights(data: bytes, parameters: int) -> Vector:
    """Read a global model; shape (parameters,), finite. Raises PeerError otherwise."""
    try:
        weights = load(data)["weights"]
    except (SafetensorError, KeyError) as err:
        raise PeerError(f"the global model cannot be read ({err}); nothing was trained") from err
    if weights.shape != (parameters,) or weights.dtype != np.float32:
        raise PeerError(
            f"the global model is {weights.dtype}{weights.shape}, the plan's has "
            f"({parameters},) float32; nothing was trained"
        )
    if not np.isfinite(weights).all():
        raise PeerError("the global model holds values that are not finite; nothing was trained")
    return weights
