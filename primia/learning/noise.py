"""Gaussian noise from operating system entropy, with a tail that reaches far enough.

torch's float32 normal makes its uniforms from 24 bits and so never exceeds 5.77 σ; a noise with
bounded support breaks (ε, δ) in the tail. Here 53-bit uniforms go through Box and Muller (1958)
in float64; the largest value is sqrt(2 · 53 · ln 2) σ = 8.57 σ, beyond which a true Gaussian
lies with probability 1e-17.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Entropy = Callable[[int], bytes]
"""Gives that many fresh, unpredictable bytes; `os.urandom` everywhere but in tests."""

_CHUNK = 1 << 16  # samples at a time: stays in the processor's cache


def add_gaussian(target: torch.Tensor, sigma: float, entropy: Entropy = os.urandom) -> None:
    """Add independent N(0, sigma²) to each element of `target`, in place.

    target: float32, any shape, contiguous, any device. The key of the stream is drawn anew from
    `entropy` in each call and forgotten at its end: no noise is ever used twice.
    """
    flat = target.view(-1)
    stream = _key_stream(entropy)
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK]
        noise = standard_normal(part.numel(), stream) * sigma
        part += torch.from_numpy(noise.astype(np.float32)).to(part.device)


def standard_normal(count: int, stream: Entropy) -> npt.NDArray[np.float64]:
    """`count` samples of N(0, 1) made from 16 bytes of `stream` for each pair."""
    pairs = (count + 1) // 2
    words = np.frombuffer(stream(16 * pairs), dtype="<u8") >> np.uint64(11)
    uniform = (words + np.uint64(1)) * 2.0**-53  # (0, 1]: the logarithm stays finite
    radius = np.sqrt(-2.0 * np.log(uniform[:pairs]))
    angle = 2.0 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def _key_stream(entropy: Entropy) -> Entropy:
    """Stretch 32 bytes of entropy with AES-256 in counter mode (NIST SP 800-38A)."""
    encryptor = Cipher(algorithms.AES(entropy(32)), modes.CTR(bytes(16))).encryptor()
    return lambda size: encryptor.update(bytes(size))
