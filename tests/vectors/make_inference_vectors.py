"""Writes inference.json: streams of seeds, from the text of primia/inference/prg.py alone.

HKDF-Expand from `hmac`, the counter mode from single AES blocks.
Run: python tests/vectors/make_inference_vectors.py
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def expand(seed: bytes, info: bytes) -> bytes:
    return hmac.new(seed, info + b"\x01", hashlib.sha256).digest()


def stream(seed: bytes, label: str, size: int) -> bytes:
    key = expand(seed, b"primia inference v1|" + label.encode("ascii"))
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    counters = range(2, 2 + -(-size // 16))
    return b"".join(block.update(c.to_bytes(16, "big")) for c in counters)[:size]


CASES = [
    (bytes(32), "mask|0/input", 48),
    (bytes(range(32)), "share|7/rho/high", 64),
    (bytes(range(32)), "share|7/rho/top", 31),
    (b"\xff" * 32, "weight|conv1.weight", 80),
]

if __name__ == "__main__":
    found = [
        {"seed": seed.hex(), "label": label, "stream": stream(seed, label, size).hex()}
        for seed, label, size in CASES
    ]
    # The last bytes of a stream of many calls to the cipher.
    long = stream(bytes(32), "mask|long", (1 << 20) + 24)
    found.append(
        {"seed": bytes(32).hex(), "label": "mask|long", "tail": long[-40:].hex(), "size": len(long)}
    )
    Path(__file__).with_name("inference.json").write_text(json.dumps(found, indent=1) + "\n")
