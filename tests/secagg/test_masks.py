from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import primia.secagg
from primia.secagg.keys import agree, key_pair, pair_mask_key, self_mask_key
from primia.secagg.masks import Mask, apply_masks, apply_masks_plainly, expand_mask, pair_mask
from primia.types import SiteId


def some_bytes(label: str, count: int = 32) -> bytes:
    return hashlib.shake_256(label.encode()).digest(count)


def test_a_mask_matches_the_known_answer(vectors):
    v = vectors["mask"]
    mask = expand_mask(bytes.fromhex(v["key"]), v["length"])
    assert mask[:4].tolist() == v["first_words"]
    assert mask[65534:65538].tolist() == v["words_65534_to_65538"]
    assert hashlib.sha256(mask.astype("<u4").tobytes()).hexdigest() == v["sha256"]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 2, 15, 65535, 65536, 65537, 140_001]),
    st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.booleans()), max_size=4),
)
def test_the_chunked_loop_equals_the_plain_reference(length, masks):
    vector = np.frombuffer(some_bytes("vector", 4 * length), np.uint32).copy()
    chosen = [Mask(key, subtract) for key, subtract in masks]
    plain = apply_masks_plainly(vector, chosen)
    apply_masks(vector, chosen)
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
@given(SITES)
def test_pair_masks_cancel_over_any_sites(names):
    pairs = {SiteId(n): key_pair(some_bytes(n)) for n in names}
    total = np.zeros(50, np.uint32)
    for me, mine in pairs.items():
        masks = []
        for peer, theirs in pairs.items():
            if peer != me:
                secret = agree(mine.private, theirs.public)
                key = pair_mask_key(
                    secret, session=bytes(32), one=me, other=peer, vector="v", length=50
                )
                masks.append(pair_mask(key, me=me, peer=peer))
        masked = np.zeros(50, np.uint32)
        apply_masks(masked, masks)
        assert masked.any()
        total += masked
    assert not total.any()


def test_no_site_masks_with_itself():
    with pytest.raises(ValueError, match="itself"):
        pair_mask(bytes(32), me=SiteId("a"), peer=SiteId("a"))


def test_each_of_the_256_key_bits_changes_every_chunk_of_a_mask():
    key = some_bytes("key")
    length = 3 * 256
    plain = expand_mask(key, length).reshape(3, 256)
    for bit in range(256):
        flipped = (int.from_bytes(key, "big") ^ (1 << bit)).to_bytes(32, "big")
        other = expand_mask(flipped, length).reshape(3, 256)
        assert (plain != other).any(axis=1).all()


def test_no_two_contexts_begin_with_the_same_mask_bytes():
    seen = set()
    for session in (bytes(32), some_bytes("session")):
        for owner in ("alder", "birch", "cedar"):
            for vector in ("update", "metrics"):
                size = {"session": session, "vector": vector, "length": 16}
                seed = bytes(32)
                seen.add(
                    expand_mask(self_mask_key(seed, owner=SiteId(owner), **size), 16).tobytes()
                )
                pair = pair_mask_key(seed, one=SiteId(owner), other=SiteId("dogwood"), **size)
                seen.add(expand_mask(pair, 16).tobytes())
    assert len(seen) == 2 * 3 * 2 * 2


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
    return sorted(Path(primia.secagg.__file__).parent.glob("*.py"))


def test_secagg_uses_no_general_purpose_random_generator():
    assert len(sources()) >= 7
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
                names += [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                names = [f"{getattr(node.value, 'id', '')}.{node.attr}"]
            else:
                continue
            for name in names:
                assert name not in ("np.random", "numpy.random", "random", "secrets", "os"), path
                assert not name.startswith(("random.", "numpy.random.", "os.", "secrets.")), path


def test_neither_secagg_nor_the_protocol_loads_torch():
    code = (
        "import sys, primia.secagg, primia.secagg.sealing, primia.secagg.shares, "
        "primia.protocol.coordinator, primia.protocol.site; "
        "print([m for m in ('torch', 'grpc', 'pydantic') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
