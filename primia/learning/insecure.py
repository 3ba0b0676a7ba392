"""Bytes that stand for entropy where every run must be the same: tests and simulation only."""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from primia.errors import PolicyRefused

if TYPE_CHECKING:
    from primia.learning.noise import Entropy

SIMULATION_VARIABLE = "PRIMIA_INSECURE_SIMULATION"


class InsecureEntropyWarning(UserWarning):
    """The noise of this process can be computed by anybody: what it makes has no privacy."""


def insecure_seeded_entropy(seed: int) -> Entropy:
    """A stand-in for `os.urandom` whose bytes are a function of `seed` (0 to 2**256 - 1) alone.

    AES-256 in counter mode, keyed by the seed. Whoever knows or guesses the seed can subtract the
    noise. Warns with InsecureEntropyWarning each time.

    Raises PolicyRefused unless pytest runs or the environment has PRIMIA_INSECURE_SIMULATION=1.
    """
    if not (_under_pytest() or os.environ.get(SIMULATION_VARIABLE) == "1"):
        raise PolicyRefused(
            "noise from a fixed seed protects nobody and is refused outside tests; use os.urandom, "
            f"or set {SIMULATION_VARIABLE}=1 for a simulation with data that need no protection"
        )
    warnings.warn(
        f"INSECURE: entropy from seed {seed}; what is trained with it has no privacy at all",
        InsecureEntropyWarning,
        stacklevel=2,
    )
    key = seed.to_bytes(32, "little")
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return lambda size: encryptor.update(bytes(size))


def _under_pytest() -> bool:
    return "PYTEST_CURRENT_TEST" in os.environ or "pytest" in sys.modules


def refuse_simulation_settings() -> None:
    """Called where real patients' films are: nothing that weakens noise may be switched on there.

    Raises PolicyRefused when the environment allows seeded noise.
    """
    if os.environ.get(SIMULATION_VARIABLE) is not None:
        raise PolicyRefused(
            f"{SIMULATION_VARIABLE} is set: it allows noise from a fixed seed, which protects "
            "nobody, and belongs to simulations alone; unset it and start again"
        )
