from __future__ import annotations

import ast
import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import primia.protocol
import primia.secagg
from primia.secagg.keys import agree, key_pair, pair_mask_key, self_mask_key
from primia.secagg.layout import Vector
from primia.secagg.masks import (
    AES,
    CHACHA,
    CHUNK,
    Mask,
    apply_masks,
    apply_masks_plainly,
    expand_mask,
    pair_mask,
)
from primia.types import SiteId


def some_bytes(label: str, count: int = 32) -> bytes:
    return hashlib.shake_256(label.encode()).digest(count)


def chi_square(values: npt.NDArray[np.unsignedinteger], bits: int) -> float:
    """Of 8-bit pieces of `values`, which should be uniform below 2^bits: their low and high 8.

    The larger of the two statistics, each with 255 degrees of freedom.
    """
    pieces = (values & 0xFF, values >> (bits - 8))
    expected = values.size / 256
    counts = [np.bincount(p, minlength=256) for p in pieces]
    return max(float(((c - expected) ** 2 / expected).sum()) for c in counts)


CHI_SQUARE_LIMIT = 377.2
"""Uniform bytes pass it with probability 1e-6 (255 degrees of freedom, Wilson-Hilferty)."""


def test_masks_match_the_known_answers(vectors):
    assert [v["cipher"] for v in vectors["masks"]] == [AES, CHACHA]
    for v in vectors["masks"]:
        mask = expand_mask(bytes.fromhex(v["key"]), v["length"], cipher=v["cipher"])
        assert mask[:4].tolist() == v["first_words"]
        assert mask[65534:65538].tolist() == v["words_65534_to_65538"]
        assert hashlib.sha256(mask.astype("<u4").tobytes()).hexdigest() == v["sha256"]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 2, 15, 65535, 65536, 65537, 140_001]),
    st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.booleans()), max_size=4),
    st.sampled_from([AES, CHACHA]),
    st.integers(1, 4),
)
def test_the_chunked_loop_equals_the_plain_reference(length, masks, cipher, threads):
    vector = np.frombuffer(some_bytes("vector", 4 * length), np.uint32).copy()
    chosen = [Mask(key, subtract) for key, subtract in masks]
    plain = apply_masks_plainly(vector, chosen, cipher=cipher)
    apply_masks(vector, iter(chosen), cipher=cipher, threads=threads)
    assert np.array_equal(vector, plain)


def test_inverted_masks_take_the_masks_off():
    vector = np.arange(100_000, dtype=np.uint32)
    masks = [Mask(some_bytes("1")), Mask(some_bytes("2"), subtract=True)]
    apply_masks(vector, masks)
    assert not np.array_equal(vector, np.arange(100_000))
    apply_masks(vector, [m.inverted() for m in masks])
    assert np.array_equal(vector, np.arange(100_000))


SITES = st.lists(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True),
    min_size=2,
    max_size=6,
    unique=True,
)


@settings(max_examples=40, deadline=None)
@given(SITES, st.sampled_from([AES, CHACHA]), st.sampled_from([24, 32]))
def test_pair_masks_cancel_over_any_sites(names, cipher, bits):
    vector = Vector("v", 50, bits)
    pairs = {SiteId(n): key_pair(some_bytes(n)) for n in names}
    total = np.zeros(50, np.uint32)
    for me, mine in pairs.items():
        masks = []
        for peer, theirs in pairs.items():
            if peer != me:
                secret = agree(mine.private, theirs.public)
                key = pair_mask_key(
                    secret, session=bytes(32), one=me, other=peer, vector=vector, cipher=cipher
                )
                masks.append(pair_mask(key, me=me, peer=peer))
        masked = np.zeros(50, np.uint32)
        apply_masks(masked, masks, cipher=cipher)
        assert masked.any()
        total += masked
    assert not total.any()


def test_no_site_masks_with_itself():
    with pytest.raises(ValueError, match="itself"):
        pair_mask(bytes(32), me=SiteId("a"), peer=SiteId("a"))


@pytest.mark.parametrize("cipher", [AES, CHACHA])
def test_each_of_the_256_key_bits_changes_every_chunk_of_a_mask(cipher):
    """Half of all words' bits on average, so each 64-byte piece of each chunk differs."""
    key = some_bytes("key")
    length = 2 * CHUNK + 16
    starts = [0, CHUNK - 16, CHUNK, 2 * CHUNK - 16, 2 * CHUNK]
    plain = expand_mask(key, length, cipher=cipher)
    for bit in range(256):
        flipped = (int.from_bytes(key, "big") ^ (1 << bit)).to_bytes(32, "big")
        other = expand_mask(flipped, length, cipher=cipher)
        assert all((plain[s : s + 16] != other[s : s + 16]).any() for s in starts)


@pytest.mark.parametrize("cipher", [AES, CHACHA])
def test_no_two_chunks_of_a_mask_begin_alike(cipher):
    mask = expand_mask(some_bytes("key"), 8 * CHUNK, cipher=cipher)
    assert len({mask[s : s + 16].tobytes() for s in range(0, mask.size, CHUNK)}) == 8


def test_no_two_contexts_begin_with_the_same_mask_bytes():
    seen = set()
    contexts = itertools.product(
        (bytes(32), some_bytes("session")),
        ("update", "metrics"),
        (16, 17),
        (24, 32),
        (AES, CHACHA),
    )
    sites = [SiteId(name) for name in ("alder", "birch", "cedar")]
    for session, name, length, bits, cipher in contexts:
        of = {"session": session, "vector": Vector(name, length, bits), "cipher": cipher}
        for site in sites:
            own = self_mask_key(bytes(32), owner=site, **of)
            pair = pair_mask_key(bytes(32), one=site, other=SiteId("dogwood"), **of)
            # Under one cipher all the same: the keys differ, not only the ciphers.
            seen |= {expand_mask(key, 16).tobytes() for key in (own, pair)}
    assert len(seen) == 2**5 * 3 * 2


@pytest.mark.parametrize("cipher", [AES, CHACHA])
@pytest.mark.parametrize("bits", [16, 20, 24])
def test_masks_reduced_to_fewer_bits_are_uniform(cipher, bits):
    """2^18 words; one false alarm in 5e5 keys, and the key is fixed."""
    mask = expand_mask(some_bytes("key"), 1 << 18, cipher=cipher) & (2**bits - 1)
    assert chi_square(mask, bits) < CHI_SQUARE_LIMIT


def test_a_range_that_ends_too_early_or_a_float_mask_would_be_noticed():
    mask = expand_mask(some_bytes("key"), 1 << 18)
    short = mask % (2**16 - 2**8)  # its highest 256 values never come
    as_float = mask.astype(np.float32).astype(np.float64).astype(np.uint64) & 0xFFFFFF
    for wrong, bits in ((short, 16), (as_float, 24)):
        assert chi_square(wrong, bits) > CHI_SQUARE_LIMIT


def test_two_vectors_masked_in_one_round_differ_by_uniform_words():
    """Neither under one mask nor under related ones: 2^18 words, false alarm 2e-6."""
    size = 1 << 18
    masked = []
    for name in ("update", "metrics"):
        of = {"session": bytes(32), "vector": Vector(name, size, 24), "cipher": AES}
        vector = np.full(size, 5, np.uint32)
        apply_masks(vector, [Mask(self_mask_key(bytes(32), owner=SiteId("alder"), **of))])
        masked.append(vector)
    difference = (masked[0] - masked[1]) & 0xFFFFFF
    assert chi_square(difference, 24) < CHI_SQUARE_LIMIT


def test_a_masked_constant_has_uniform_differences_between_its_coordinates():
    """No mask is one scalar for all: neighbours, and coordinates a chunk apart; each 2e-6."""
    vector = np.full(1 << 18, 123, np.uint32)
    apply_masks(vector, [Mask(some_bytes("1")), Mask(some_bytes("2"), subtract=True)])
    for distance in (1, 4, 16, CHUNK):
        difference = (vector[distance:] - vector[:-distance]) & 0xFFFFFF
        assert chi_square(difference, 24) < CHI_SQUARE_LIMIT


def test_masks_and_masked_vectors_are_unsigned_integers():
    assert expand_mask(bytes(32), 4).dtype == np.uint32
    vector = np.zeros(4, np.uint32)
    apply_masks(vector, [Mask(bytes(32))])
    assert vector.dtype == np.uint32


def test_a_cipher_of_no_known_name_is_refused():
    vector = np.zeros(4, np.uint32)
    with pytest.raises(ValueError, match="rot13"):
        apply_masks(vector, [Mask(bytes(32))], cipher="rot13")
    assert not vector.any()


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(4, np.int32),
        np.zeros(4, np.float32),
        np.zeros((2, 2), np.uint32),
        np.zeros(8, np.uint32)[::2],
    ],
)
def test_only_flat_unsigned_vectors_are_masked(vector):
    with pytest.raises(ValueError, match="vector"):
        apply_masks(vector, [Mask(bytes(32))])


def test_a_mask_hides_its_key():
    key = some_bytes("key")
    assert repr(key)[2:-1] not in repr(Mask(key))


def sources() -> list[Path]:
    packages = [Path(package.__file__).parent for package in (primia.secagg, primia.protocol)]
    return [path for package in packages for path in sorted(package.glob("*.py"))]


def generators(source: str) -> set[str]:
    """Modules with randomness of their own that `source` imports or reaches through numpy."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            root = {"np": "numpy", "numpy": "numpy"}.get(getattr(node.value, "id", ""))
            found |= {f"{root}.{node.attr}"}
    forbidden = ("random", "numpy.random", "secrets", "os", "uuid", "torch")
    return {name for name in found if name.startswith(tuple(f"{f}." for f in forbidden))} | (
        found & set(forbidden)
    )


def test_neither_secagg_nor_the_protocol_has_a_random_generator():
    assert {"masks.py", "encoding.py", "site_secrets.py"} <= {path.name for path in sources()}
    for path in sources():
        assert not generators(path.read_text()), path


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "from random import randint",
        "from numpy.random import default_rng",
        "from numpy import random as r",
        "import numpy.random",
        "import numpy as np\nx = np.random.default_rng(1)",
        "import secrets",
        "from os import urandom",
    ],
)
def test_the_search_for_generators_finds_them(source):
    assert generators(source)


def test_neither_secagg_nor_the_protocol_loads_torch():
    code = (
        "import sys, primia.secagg, primia.secagg.sealing, primia.secagg.shares, "
        "primia.protocol.coordinator, primia.protocol.site; "
        "print([m for m in ('torch', 'grpc', 'pydantic') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
