from __future__ import annotations

import hashlib
import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import PeerError
from primia.secagg.layout import Layout, Vector
from primia.secagg.packing import add_packed, pack, unpack
from primia.types import Ring

SIZES = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 7, 65535, 65536, 65537]), st.sampled_from([24, 32])),
    min_size=1,
    max_size=4,
)


def layout_of(sizes: list[tuple[int, int]]) -> Layout:
    return Layout(tuple(Vector(f"v{i}", *size) for i, size in enumerate(sizes)))


def some_words(layout: Layout, label: str) -> Ring:
    data = hashlib.shake_256(label.encode()).digest(4 * layout.length)
    return np.frombuffer(data, "<u4").astype(np.uint32)


def pack_plainly(words: Ring, layout: Layout) -> bytes:
    data = b""
    for vector in layout.vectors:
        part = words[layout.slice(vector.name)].tolist()
        if vector.bits == 32:
            data += b"".join(word.to_bytes(4, "little") for word in part)
        else:
            data += b"".join((word & 0xFFFF).to_bytes(2, "little") for word in part)
            data += bytes(word >> 16 & 0xFF for word in part)
    return data


def residues(words: Ring, layout: Layout) -> Ring:
    """The words without what means nothing."""
    kept = words.copy()
    for vector in layout.vectors:
        kept[layout.slice(vector.name)] &= 2**vector.bits - 1
    return kept


@settings(max_examples=25, deadline=None)
@given(SIZES)
def test_packing_equals_the_plain_reference(sizes):
    layout = layout_of(sizes)
    words = some_words(layout, "words")
    assert pack(words, layout) == pack_plainly(words, layout)


@settings(max_examples=25, deadline=None)
@given(SIZES)
def test_what_is_packed_unpacks_to_the_same_residues(sizes):
    layout = layout_of(sizes)
    words = some_words(layout, "words")
    data = pack(words, layout)
    assert len(data) == layout.wire_bytes
    back = unpack(data, layout)
    assert back.dtype == np.uint32
    assert np.array_equal(back, residues(words, layout))


@settings(max_examples=25, deadline=None)
@given(SIZES, st.integers(1, 4))
def test_a_running_sum_of_packed_vectors_equals_the_sum_of_python_integers(sizes, count):
    layout = layout_of(sizes)
    vectors = [some_words(layout, str(i)) for i in range(count)]
    total = np.zeros(layout.length, np.uint32)
    for words in vectors:
        add_packed(total, pack(words, layout), layout)
    plain = sum(words.astype(object) for words in vectors) % 2**32
    assert np.array_equal(residues(total, layout), residues(plain.astype(np.uint32), layout))


def test_packed_bytes_match_the_known_answer(vectors):
    v = vectors["packing"]
    layout = Layout(tuple(Vector(**vector) for vector in v["vectors"]))
    words, packed = np.array(v["words"], np.uint32), bytes.fromhex(v["packed"])
    assert pack(words, layout) == packed
    total = unpack(packed, layout)
    add_packed(total, packed, layout)
    assert residues(total, layout).tolist() == v["sum_of_two"]


def test_packed_bytes_of_another_length_are_refused_and_change_nothing(vectors):
    v = vectors["packing"]
    layout = Layout(tuple(Vector(**vector) for vector in v["vectors"]))
    total = np.zeros(layout.length, np.uint32)
    for forgery in vectors["forgeries"]["packed"]:
        with pytest.raises(PeerError, match=f"has {forgery['refusal']}.* {layout.wire_bytes};"):
            add_packed(total, bytes.fromhex(forgery["packed"]), layout)
        with pytest.raises(PeerError, match=forgery["refusal"]):
            unpack(bytes.fromhex(forgery["packed"]), layout)
    assert not total.any()


def test_a_sum_reads_every_kind_of_buffer(tmp_path):
    layout = layout_of([(3, 24), (70_001, 24), (5, 32)])
    words = some_words(layout, "words")
    data = bytes(pack(words, layout))
    (tmp_path / "upload").write_bytes(data)
    with (tmp_path / "upload").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for buffer in (data, bytearray(data), memoryview(data), mapped):
            assert np.array_equal(unpack(buffer, layout), residues(words, layout))
        mapped.close()  # refused as long as a view of it were left


@pytest.mark.parametrize("bad", [np.zeros(4, np.uint32), np.zeros(3, np.int64)])
def test_words_of_another_shape_or_type_are_refused(bad):
    layout = layout_of([(3, 24)])
    with pytest.raises(ValueError, match="words"):
        pack(bad, layout)
    with pytest.raises(ValueError, match="words"):
        add_packed(bad, bytes(9), layout)
