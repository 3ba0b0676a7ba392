"""A stream that stands for entropy in tests, where the same bytes must come in every run."""

from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def seeded_entropy(seed: int) -> Callable[[int], bytes]:
    """Bytes that look like entropy and are the same in every run."""
    key = seed.to_bytes(32, "little")
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return lambda size: encryptor.update(bytes(size))
