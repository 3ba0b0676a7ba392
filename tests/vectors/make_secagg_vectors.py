"""Writes secagg.json from the text of docs/protocol.md, without using any code of primia.

HKDF from `hmac`, AES-CTR from single AES blocks, Shamir from rational interpolation: so the
vectors check the code and are not a copy of it. Run: python tests/vectors/make_secagg_vectors.py
"""

from __future__ import annotations

import hashlib
import hmac
import json
from fractions import Fraction
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

P = 2**256 + 297


def lp(*parts: bytes) -> bytes:
    return b"".join(len(p).to_bytes(4, "big") + p for p in parts)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    prk = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


def ctr_words(key: bytes, length: int) -> list[int]:
    ecb = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    blocks = -(-4 * length // 16)
    stream = b"".join(ecb.update(i.to_bytes(16, "big")) for i in range(blocks))
    return [int.from_bytes(stream[4 * i : 4 * i + 4], "little") for i in range(length)]


def seed(label: str, count: int = 32) -> bytes:
    return hashlib.shake_256(label.encode()).digest(count)


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def main() -> None:
    session, low, high, vector, length = seed("session"), b"alder", b"birch", b"v", 70_000
    a, b = seed("a"), seed("b")
    pair_secret = X25519PrivateKey.from_private_bytes(a).exchange(
        X25519PublicKey.from_public_bytes(public(b))
    )
    size = length.to_bytes(8, "big")
    label = b"primia secagg v1 "
    keys = {
        "pair": hkdf(pair_secret, session, lp(label + b"pair mask", low, high, vector, size)),
        "self": hkdf(a, session, lp(label + b"self mask", low, vector, size)),
        "seal": hkdf(pair_secret, session, lp(label + b"seal", low, high)),
        "commitment": hkdf(a, bytes(32), lp(label + b"seed commitment", low)),
    }
    words = ctr_words(keys["pair"], length)
    about = lp(label + b"share pair", session, low, high)
    self_share, key_share = seed("self share", 33), seed("key share", 33)
    sealed = ChaCha20Poly1305(keys["seal"]).encrypt(bytes(12), self_share + key_share, about)
    no_session = lp(label + b"share pair", b"", low, high)
    forged = ChaCha20Poly1305(keys["seal"]).encrypt(bytes(12), self_share + key_share, no_session)
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
    session_text = lp(b"primia round v1 session", round_part, lp(*cohort), lp(*parts))
    advert_text = lp(b"primia round v1 key advert", round_part, lp(*cohort), parts[0])
    survivors_text = lp(b"primia round v1 survivors", session, lp(*cohort), lp(*cohort[:2]))
    vectors = {
        "about": "written by make_secagg_vectors.py, which shares no code with primia",
        "session": session.hex(),
        "keys": {
            "private_a": a.hex(),
            "private_b": b.hex(),
            "public_a": public(a).hex(),
            "public_b": public(b).hex(),
            "x25519": pair_secret.hex(),
            "vector": "v",
            "length": length,
            **{name: key.hex() for name, key in keys.items()},
        },
        "mask": {
            "key": keys["pair"].hex(),
            "length": length,
            "first_words": words[:4],
            "words_65534_to_65538": words[65534:65538],  # across the first chunk border
            "sha256": hashlib.sha256(b"".join(w.to_bytes(4, "little") for w in words)).hexdigest(),
        },
        "sealing": {
            "self_share": self_share.hex(),
            "key_share": key_share.hex(),
            "sealed": sealed.hex(),
            # Right key, but the associated data does not name the session: must not open.
            "forged": forged.hex(),
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
            "survivors_sha256": hashlib.sha256(survivors_text).hexdigest(),
        },
        # RFC 7748 section 6.1 and the well-known points of order 1, 2, 4, 8, with their
        # non-canonical twins: each must be refused.
        "small_order_points": [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ],
    }
    path = Path(__file__).with_name("secagg.json")
    path.write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
