"""Writes secagg.json from the text of docs/protocol.md, without using any code of primia.

HKDF from `hmac`, AES-CTR from single AES blocks, ChaCha20 from the RFC's text, Shamir from
rational interpolation, rounding from fractions: so the vectors check the code and are not a copy
of it. Run: python tests/vectors/make_secagg_vectors.py
"""

from __future__ import annotations

import hashlib
import hmac
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

P = 2**256 + 297
WORDS_PER_NONCE = 65_536

# RFC 7748 section 6.1 and the well-known points of order 1, 2, 4, 8, with their non-canonical
# twins: each must be refused.
SMALL_ORDER_POINTS = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def lp(*parts: bytes) -> bytes:
    return b"".join(len(p).to_bytes(4, "big") + p for p in parts)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    prk = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


def aes_words(key: bytes, length: int) -> list[int]:
    """Single AES blocks: number of the chunk (12 bytes), then a counter (4) from 2."""
    ecb = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    stream = b""
    for i in range(-(-length // 4)):
        chunk, block = divmod(i, WORDS_PER_NONCE // 4)
        stream += ecb.update(chunk.to_bytes(12, "big") + (block + 2).to_bytes(4, "big"))
    return [int.from_bytes(stream[4 * i : 4 * i + 4], "little") for i in range(length)]


def chacha_words(key: bytes, length: int) -> list[int]:
    """ChaCha20 blocks: number of the chunk as nonce, counter from 0."""
    words: list[int] = []
    for i in range(-(-length // 16)):
        chunk, block = divmod(i, WORDS_PER_NONCE // 16)
        words += chacha_block(key, block, chunk.to_bytes(12, "big"))
    return words[:length]


def chacha_block(key: bytes, counter: int, nonce: bytes) -> list[int]:
    """RFC 8439, section 2.3, as 16 words."""

    def little(data: bytes) -> list[int]:
        return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]

    start = little(b"expand 32-byte k") + little(key) + [counter] + little(nonce)
    state = list(start)

    def add_xor_turn(a: int, b: int, c: int, bits: int) -> None:
        state[a] = (state[a] + state[b]) % 2**32
        mixed = state[c] ^ state[a]
        state[c] = (mixed << bits | mixed >> (32 - bits)) % 2**32

    diagonals = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    for _ in range(10):
        for a, b, c, d in [(i, i + 4, i + 8, i + 12) for i in range(4)] + diagonals:
            add_xor_turn(a, b, d, 16)
            add_xor_turn(c, d, b, 12)
            add_xor_turn(a, b, d, 8)
            add_xor_turn(c, d, b, 7)
    return [(x + y) % 2**32 for x, y in zip(state, start, strict=True)]


def mask_answer(cipher: str, key: bytes, words: list[int]) -> dict[str, Any]:
    return {
        "cipher": cipher,
        "key": key.hex(),
        "length": len(words),
        "first_words": words[:4],
        "words_65534_to_65538": words[65534:65538],  # across the border of the first nonce
        "sha256": hashlib.sha256(b"".join(w.to_bytes(4, "little") for w in words)).hexdigest(),
    }


def packed_24(words: list[int]) -> bytes:
    low = b"".join((w % 2**16).to_bytes(2, "little") for w in words)
    return low + bytes(w // 2**16 % 2**8 for w in words)


def nearest_words(values: list[str], bits: int, value_range: str) -> list[int]:
    """Clip to the range, round to nearest, two's complement of 32 bits; exact fractions."""
    top, limit = 2 ** (bits - 1) - 1, Fraction(value_range)
    return [round(max(-limit, min(limit, Fraction(v))) * top / limit) % 2**32 for v in values]


def seed(label: str, count: int = 32) -> bytes:
    return hashlib.shake_256(label.encode()).digest(count)


def flip_last_bit(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def main() -> None:
    session, low, high, vector, length = seed("session"), b"alder", b"birch", b"v", 70_000
    a, b = seed("a"), seed("b")
    pair_secret = X25519PrivateKey.from_private_bytes(a).exchange(
        X25519PublicKey.from_public_bytes(public(b))
    )
    label, aes, chacha = b"primia secagg v2 ", b"aes-256-ctr", b"chacha20"
    size = [length.to_bytes(8, "big"), (24).to_bytes(8, "big")]
    about_pair = lp(label + b"pair mask", low, high, aes, vector, *size)
    about_pair_chacha = lp(label + b"pair mask", low, high, chacha, vector, *size)
    keys = {
        "pair": hkdf(pair_secret, session, about_pair),
        "pair_chacha20": hkdf(pair_secret, session, about_pair_chacha),
        "self": hkdf(a, session, lp(label + b"self mask", low, aes, vector, *size)),
        "seal": hkdf(pair_secret, session, lp(label + b"seal", low, high)),
        "commitment": hkdf(a, bytes(32), lp(label + b"seed commitment", low)),
    }
    aes_mask = aes_words(keys["pair"], length)
    chacha_mask = chacha_words(keys["pair_chacha20"], length)
    update = [0, 1, 0xFFFFFF, 0x800000, 0x123456, 0xDDABCDEF]  # the last with a stray top byte
    counts = [7, 0xFFFFFFFF]
    plain_counts = b"".join(c.to_bytes(4, "little") for c in counts)
    packed = packed_24(update) + plain_counts
    values = ["0", "1", "-1", "0.25", "-0.25", "0.3", "-0.7", "5", "-5"]
    about = lp(label + b"share pair", session, low, high)
    self_share, key_share = seed("self share", 33), seed("key share", 33)
    sealed = ChaCha20Poly1305(keys["seal"]).encrypt(bytes(12), self_share + key_share, about)
    no_session = lp(label + b"share pair", b"", low, high)
    forged = ChaCha20Poly1305(keys["seal"]).encrypt(bytes(12), self_share + key_share, no_session)
    opening = {"session": session.hex(), "sender": "alder", "receiver": "birch"}
    sealed_forgeries = [
        {"about": "associated data names no session", **opening, "sealed": forged.hex()},
        {"about": "last bit changed", **opening, "sealed": flip_last_bit(sealed).hex()},
        {"about": "last byte missing", **opening, "sealed": sealed[:-1].hex()},
        {"about": "other sender", **opening, "sender": "cedar", "sealed": sealed.hex()},
        {"about": "other receiver", **opening, "receiver": "cedar", "sealed": sealed.hex()},
        {
            "about": "sent back to its sender",
            **opening,
            "sender": "birch",
            "receiver": "alder",
            "sealed": sealed.hex(),
        },
        {"about": "other session", **opening, "session": a.hex(), "sealed": sealed.hex()},
    ]
    secret, entropy, t, n = seed("secret"), seed("coefficients", 48 * 2), 3, 5
    c2, c1 = (int.from_bytes(entropy[i : i + 48], "big") % P for i in (0, 48))
    s = int.from_bytes(secret, "big")
    shares = [(c2 * x * x + c1 * x + s) % P for x in range(1, n + 1)]
    at_zero = Fraction(0)
    for x in (2, 4, 5):  # Lagrange over the rationals, numerators reduced at the end
        weight = Fraction(1)
        for other in {2, 4, 5} - {x}:
            weight *= Fraction(-other, x - other)
        at_zero += shares[x - 1] * weight
    assert at_zero.numerator * pow(at_zero.denominator, -1, P) % P == s

    plan, model, cohort = b"a" * 64, b"b" * 64, [b"alder", b"birch", b"cedar"]
    round_part = lp(plan, (3).to_bytes(8, "big"), (9).to_bytes(8, "big"), b"train", model)
    parts = [lp(c, *(seed(f"{c.decode()} {k}") for k in ("mask", "seal", "seed"))) for c in cohort]
    session_text = lp(b"primia round v2 session", round_part, lp(*cohort), lp(*parts))
    advert_text = lp(
        b"primia round v2 key advert",
        round_part,
        hashlib.sha256(lp(*cohort)).digest(),
        parts[0],
    )
    partners_text = lp(b"primia round v2 mask partners", session, lp(*cohort))
    survivors_text = lp(b"primia round v2 survivors", session, lp(*cohort), lp(*cohort[:2]))
    vectors = {
        "about": "by make_secagg_vectors.py, which shares no code with primia; bytes in hex",
        "session": session.hex(),
        "keys": {
            "private_a": a.hex(),
            "private_b": b.hex(),
            "public_a": public(a).hex(),
            "public_b": public(b).hex(),
            "x25519": pair_secret.hex(),
            "vector": "v",
            "length": length,
            "bits": 24,
            "cipher": "aes-256-ctr",
            **{name: key.hex() for name, key in keys.items()},
        },
        "masks": [
            mask_answer("aes-256-ctr", keys["pair"], aes_mask),
            mask_answer("chacha20", keys["pair_chacha20"], chacha_mask),
        ],
        "encoding": {
            "about": "to nearest; values beyond the range are clipped; two's complement",
            "bits": 21,
            "range": "1.5",
            "values": values,
            "words": nearest_words(values, 21, "1.5"),
            "clipped": 2,
        },
        "packing": {
            "about": "24 bits: low 16 of all words (little-endian), then high 8; 32 bits: words",
            "vectors": [
                {"name": "update", "length": len(update), "bits": 24},
                {"name": "counts", "length": len(counts), "bits": 32},
            ],
            "words": update + counts,
            "packed": packed.hex(),
            "sum_of_two": [2 * w % 2**24 for w in update] + [2 * w % 2**32 for w in counts],
        },
        "sealing": {
            "self_share": self_share.hex(),
            "key_share": key_share.hex(),
            "sealed": sealed.hex(),
        },
        "shamir": {
            "secret": secret.hex(),
            "entropy": entropy.hex(),
            "threshold": t,
            "shares": [v.to_bytes(33, "big").hex() for v in shares],
        },
        "statements": {
            "number": 3,
            "attempt": 9,
            "session_id": hashlib.sha256(session_text).hexdigest(),
            "advert_sha256": hashlib.sha256(advert_text).hexdigest(),
            "mask_partners_sha256": hashlib.sha256(partners_text).hexdigest(),
            "survivors_sha256": hashlib.sha256(survivors_text).hexdigest(),
        },
        "small_order_points": SMALL_ORDER_POINTS,
        "forgeries": {
            "about": "each must be refused; `refusal` says for what",
            "public_keys": [
                *({"public": p, "refusal": "small order"} for p in SMALL_ORDER_POINTS),
                {"public": public(a).hex()[:-2], "refusal": "malformed"},
                {"public": public(a).hex() + "00", "refusal": "malformed"},
            ],
            "shares": [
                {"x": 2, "share": P.to_bytes(33, "big").hex(), "refusal": "malformed"},
                {"x": 2, "share": "ff" * 33, "refusal": "malformed"},
                {"x": 2, "share": (P - 1).to_bytes(33, "big").hex()[2:], "refusal": "malformed"},
            ],
            "sealed": [{**f, "refusal": "do not open"} for f in sealed_forgeries],
            "packed": [
                {"packed": packed[:-1].hex(), "refusal": f"{len(packed) - 1} bytes"},
                {"packed": packed.hex() + "00", "refusal": f"{len(packed) + 1} bytes"},
                {"packed": "", "refusal": "0 bytes"},
            ],
        },
    }
    path = Path(__file__).with_name("secagg.json")
    path.write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
